"""The writing side of the segment: allocation, indexes, records, reclaim."""
