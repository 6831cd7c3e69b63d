# The pieces of an image's root file system, for the scripts beside this file (one per image).
# An image holds one program, the libraries that it needs and nothing else: no shell, no package manager.

# The folders and accounts that any program expects.
base() { # base ROOT
  rm -rf "${1:?}"
  mkdir -p "$1/etc/ssl/certs" "$1/tmp" "$1/usr/local/bin"
  chmod 1777 "$1/tmp"
  printf 'root:x:0:0:root:/:/nonexistent\nnonroot:x:65532:65532:nonroot:/tmp:/nonexistent\n' > "$1/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' > "$1/etc/group"
  printf 'hosts: files dns\n' > "$1/etc/nsswitch.conf"
  # Certificate authorities of the system where the image is made (Debian's package ca-certificates).
  cp -L /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
}

# A program with the shared libraries that it names, each at the path where the dynamic loader looks for it.
program() { # program FILE ROOT
  cp "$1" "$2/usr/local/bin/"
  ldd "$1" | awk '$3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
    add_library "$library" "$2"
  done
}

add_library() { # add_library FILE ROOT
  mkdir -p "$2${1%/*}"
  cp -L "$1" "$2$1"
}
