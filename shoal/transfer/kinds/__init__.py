"""Kinds of records of an export, one file each: how a record is written, read and restored."""
