"""The version of flowgrpo."""

VERSION = "0.2.0"
