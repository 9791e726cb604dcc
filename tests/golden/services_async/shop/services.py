from dataclasses import dataclass


@dataclass
class Services:
    url: str


async def create_services() -> Services:
    return Services("")
