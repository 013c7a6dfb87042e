"""`make gpu-check`: what only a GPU can show, checked in ten minutes and written to one JSON and one page.

Every check also runs on the CPU in miniature (`tests/test_gpu_check.py`), where both sides of a comparison are the CPU.
"""
