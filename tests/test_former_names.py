import importlib
import warnings

import pytest

from kvlab.former_names import FORMER


@pytest.mark.parametrize("former", FORMER)
def test_a_former_name_is_the_same_module_and_says_what_it_is_now(former):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        import sys

        sys.modules.pop(former, None)
        assert importlib.import_module(former) is importlib.import_module(FORMER[former])
    assert any(FORMER[former] in str(one.message) for one in said)


def test_what_stands_in_a_former_package_is_found_and_is_the_same():
    from kvlab.policies.snapkv import SnapKV

    from kvlab import files
    from kvlab.compression.policies.snapkv import SnapKV as Present
    from kvlab.runs import files as present_files

    assert SnapKV is Present
    assert files is present_files
