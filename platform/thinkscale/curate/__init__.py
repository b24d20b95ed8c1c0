"""Pure decisions about a pool of questions: no I/O, no clock, seeds are arguments."""
