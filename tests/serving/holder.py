"""Another process that holds a lease: python holder.py MODE FOLDER. Prints one line of JSON when it has it."""

import json
import sys
import time
from pathlib import Path

from kvlab.serving.embedded import lease_server
from tests.serving.conftest import fake_spec

lease = lease_server(fake_spec(sys.argv[1], Path(sys.argv[2])), say=lambda _: None, grace_s=0.3)
print(json.dumps({"pid": lease.pid, "reused": lease.reused}), flush=True)
time.sleep(600)
