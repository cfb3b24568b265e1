"""HDF5's gzip filter outside of HDF5: `compress(data, 1)` and `decompress(data)`.

ISA-L's, where there is one for the machine: the same stream format, 5 x zlib's speed at level 1 and twice at inflating.
"""

try:
    from isal.isal_zlib import compress, decompress
except ImportError:
    from zlib import compress, decompress

__all__ = ["compress", "decompress"]
