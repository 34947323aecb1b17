from triggers.families.badnet import BadNet


def test_default_patch_does_not_drift():
    # The numbers a specimen was trained with must come out again in every later version.
    assert [round(value * 255) for value in BadNet().patch(1)[0][0]] == [197, 215, 20]
