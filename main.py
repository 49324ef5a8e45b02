"""The program of a checkout: `python main.py` is `lrjax`; --help lists its flags."""

from lrjax.__main__ import start

if __name__ == "__main__":
    start()
