"""`python -m pikku_gen`: the same program as `pikku-gen`."""

from pikku_gen.cli import main

if __name__ == "__main__":
    main()
