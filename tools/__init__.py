"""What maintainers and instructors run, through `make`. No notebook needs it."""
