"""``python -I -S bootstrap.py SOCKET RUNTIME_FOLDER MSGPACK_FOLDER``: starts the zygote without site-packages.

The folders go behind the standard library: nothing in them may stand in for a part of it.
"""

import os
import sys

_CONTROL = 3

if __name__ == "__main__":
    given, *folders = sys.argv[1:]
    if int(given) != _CONTROL:
        os.dup2(int(given), _CONTROL, inheritable=False)
        os.close(int(given))
    sys.path.extend(folders)
    from mayfly_runtime.zygote import main

    main(_CONTROL, folders)
