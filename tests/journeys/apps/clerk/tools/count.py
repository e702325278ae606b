import sys

print("counting in", sys.path[0], *sys.argv[1:])
