"""Fetches from Maven Central what a list of checksums and paths names: jars.py LIST DIRECTORY"""

import hashlib
import pathlib
import sys
import urllib.request

for line in pathlib.Path(sys.argv[1]).read_text().splitlines():
    checksum, path = line.split()
    jar = urllib.request.urlopen(f"https://repo1.maven.org/maven2/{path}", timeout=120).read()
    if hashlib.sha256(jar).hexdigest() != checksum:
        sys.exit(f"{path} isn't what it is to be")
    (pathlib.Path(sys.argv[2]) / path.rsplit("/", 1)[1]).write_bytes(jar)
