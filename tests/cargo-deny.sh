# Sets `deny` to the program cargo-deny, which is built once, into the user's cache: minutes.
# shellcheck shell=bash

version=0.20.2
deny_folder=${XDG_CACHE_HOME:-$HOME/.cache}/zimage/cargo-deny-$version
deny=$deny_folder/bin/cargo-deny
if [ ! -x "$deny" ]; then
  echo "building cargo-deny"
  CARGO_TARGET_DIR=$deny_folder/target cargo install --quiet --locked --version $version --root "$deny_folder" cargo-deny
  rm -r "$deny_folder/target"
fi
