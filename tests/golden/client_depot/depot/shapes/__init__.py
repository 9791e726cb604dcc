from depot.shapes.plain import Page as Page, Unit as Unit

__all__ = ["Page", "Unit"]
