"""What ends the program with a sentence rather than a traceback."""


class Failure(Exception):
    """Something that the user can mend; the text says what and how."""
