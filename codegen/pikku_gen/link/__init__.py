"""Facts of many files to one model: names followed to the module that defines them."""
