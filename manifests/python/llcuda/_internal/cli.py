import sys


def main() -> int:
    print("llcuda")
    return 0
