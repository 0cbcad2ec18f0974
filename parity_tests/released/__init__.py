"""What the released code computes, and this project beside it."""
