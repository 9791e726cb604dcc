from dataclasses import dataclass


@dataclass
class Person:
    name: str

    @dataclass
    class Address:
        street: str


@dataclass
class Team:
    people: list[Person]
