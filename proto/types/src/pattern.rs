//! Patterns of `.dockerignore` files.
