"""Linux and only Linux: constants under their C names, one function a call. No policy; imports nothing of ours."""
