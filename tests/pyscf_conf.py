"""PySCF's settings in the tests: no temporary file of a calculation's state, which nothing closes."""

scf_hf_SCF_mute_chkfile = True
