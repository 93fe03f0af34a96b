"""Published databases: found in their archive records, downloaded, checked, unpacked and counted.

Nothing here knows of Hydra; what is known of each record stands in ``conf/fetch/``.
"""
