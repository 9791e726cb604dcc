from dataclasses import dataclass


@dataclass
class Mail:
    to: str


class Job:
    """Named like a type of pikku's."""
