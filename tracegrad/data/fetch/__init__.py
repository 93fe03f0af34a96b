"""Published databases: look up their archives, download, compare checksums, unpack and count the samples.

pooch downloads and verifies each archive, with a downloader of our own that resumes. Records are read here, since
pooch does not tell licences and sizes, and archives are unpacked here: pooch reads no archive in parts and does not
filter the paths of tar archives before Python 3.12. What is known of each record stands in ``conf/fetch/``.
"""
