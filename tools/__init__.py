"""What maintainers and instructors run, mostly through `make`. No notebook needs it."""
