"""Protobuf messages of libp2p: `.proto` sources and the code `make proto` generates from them.

Field numbers follow the libp2p specs; every package is named `p2pfwd.*`, so that these messages can
live in one process with another libp2p implementation's. All files are proto2: presence matters, and
an enum field must be set, hence written, even when its value is 0. Decoding is lenient (unknown
fields are skipped); the caller bounds the size of the bytes before it decodes.
"""
