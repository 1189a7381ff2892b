#!/bin/sh
# Puts the agent and what systemd needs for it in place, or takes it away again. Can be run any number of times.
#
#   install.sh [--binary FILE]     FILE: by default ../target/release/agent, or `agent` beside this script
#   install.sh --uninstall         stops the agents; leaves configs, keys, state, logs and the rendered files
#   install.sh --uninstall --purge removes those too, and the user `leasehold`
#
# PREFIX (default /usr/local) is where binary, units, sysusers, tmpfiles and examples go. With DESTDIR nothing outside it is
# touched: no user is made, and systemd is not told. A config is never overwritten, and never written: only its folder is.
# Exit: 0 done; 64 usage; 66 no binary; 69 systemd is too old; 77 not root.
set -eu

say() { echo "install.sh: $*" >&2; }
usage() { say "usage: install.sh [--binary FILE] | --uninstall [--purge]"; exit 64; }

prefix=${PREFIX:-/usr/local}
dest=${DESTDIR:-}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
binary='' uninstall=no purge=no
while [ $# -gt 0 ]; do
  case $1 in
    --binary) [ $# -ge 2 ] || usage; binary=$2; shift ;;
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    *) usage ;;
  esac
  shift
done
[ "$purge" = no ] || [ "$uninstall" = yes ] || usage
case $prefix in /*) ;; *) say "PREFIX must be absolute: $prefix"; exit 64 ;; esac
[ -n "$dest" ] || [ "$(id -u)" = 0 ] || { say "needs root, or DESTDIR"; exit 77; }

units=$prefix/lib/systemd/system
sysusers=$prefix/lib/sysusers.d/leasehold.conf
tmpfiles=$prefix/lib/tmpfiles.d/leasehold.conf
examples=$prefix/share/leasehold
# Says whose unit the agent may manage, so it is the machine's own: polkit reads no other folder on every release.
rules=/etc/polkit-1/rules.d/50-leasehold.rules

running() { [ -z "$dest" ] && [ -d /run/systemd/system ]; }

# put MODE FROM TO: the agent's path in it follows PREFIX. Beside its place and renamed, so that nobody reads half of it.
put() {
  mkdir -p "$dest${3%/*}"
  sed "s|/usr/local/bin/agent|$prefix/bin/agent|" "$2" >"$dest$3.new"
  chmod "$1" "$dest$3.new"
  mv -f "$dest$3.new" "$dest$3"
}

# Whether this litellm.service is the one from here: by its first line, which no release changes.
is_ours() { [ "$(sed 1q "$1")" = "$(sed 1q "$here/litellm.service")" ]; }

# Whether the machine has a litellm.service of its own.
has_litellm() {
  for dir in /etc/systemd/system /run/systemd/system "$units" /usr/lib/systemd/system /lib/systemd/system; do
    [ ! -e "$dest$dir/litellm.service" ] || is_ours "$dest$dir/litellm.service" || return 0
  done
  return 1
}

install_all() {
  if [ -z "$binary" ]; then
    binary=$here/agent
    [ -f "$binary" ] || binary=$here/../target/release/agent
  fi
  [ -f "$binary" ] || { say "no binary at $binary: \`cargo build --locked --release\`, or --binary FILE"; exit 66; }
  if running; then
    version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    # Type=notify-reload is known since 253, ImportCredential= since 254.
    [ "${version:-0}" -ge 254 ] || { say "needs systemd 254, this machine has ${version:-none}"; exit 69; }
  fi

  mkdir -p "$dest$prefix/bin"
  cp "$binary" "$dest$prefix/bin/agent.new"
  chmod 0755 "$dest$prefix/bin/agent.new"
  mv -f "$dest$prefix/bin/agent.new" "$dest$prefix/bin/agent"
  put 0644 "$here/leasehold@.service" "$units/leasehold@.service"
  put 0644 "$here/leasehold@litellm.service.d/litellm.conf" "$units/leasehold@litellm.service.d/litellm.conf"
  put 0644 "$here/litellm.service.d/leasehold.conf" "$units/litellm.service.d/leasehold.conf"
  put 0644 "$here/litellm.socket" "$units/litellm.socket"
  has_litellm || put 0644 "$here/litellm.service" "$units/litellm.service"
  put 0644 "$here/leasehold.sysusers.conf" "$sysusers"
  put 0644 "$here/leasehold.tmpfiles.conf" "$tmpfiles"
  for file in signal.conf owner.conf; do put 0644 "$here/drop-ins/$file" "$examples/drop-ins/$file"; done
  for file in agent.yaml litellm/config.yaml.tera litellm/secrets.yaml; do
    put 0644 "$here/../examples/litellm-systemd/$file" "$examples/litellm-systemd/$file"
  done
  if [ ! -e "$dest$rules" ]; then
    put 0644 "$here/leasehold.rules" "$rules"
  elif ! cmp -s "$here/leasehold.rules" "$dest$rules"; then
    say "kept $rules, which was changed here; the one of this release: $examples/leasehold.rules"
    put 0644 "$here/leasehold.rules" "$examples/leasehold.rules"
  fi
  mkdir -p "$dest/etc/leasehold"

  if [ -z "$dest" ]; then
    systemd-sysusers "$sysusers"
    # polkitd reads its rules as a user of its own.
    chmod a+rX /etc/polkit-1/rules.d 2>/dev/null || true
    systemd-tmpfiles --create "$tmpfiles"
  fi
  ! running || systemctl daemon-reload
  next
}

next() {
  cat <<END
Installed below $prefix. Next, as root:
  cp -rn $examples/litellm-systemd/litellm /etc/leasehold/
  cp -n $examples/litellm-systemd/agent.yaml /etc/leasehold/litellm.yaml
  chown -R root:leasehold /etc/leasehold && chmod -R u=rwX,g=rX,o= /etc/leasehold
  (umask 077; test -e /etc/credstore/leasehold.litellm.state_key || openssl rand -base64 48 >/etc/credstore/leasehold.litellm.state_key)
  \$EDITOR /etc/leasehold/litellm.yaml && agent check --config /etc/leasehold/litellm.yaml
  systemctl enable --now leasehold@litellm.service litellm.service
An agent that ran already goes on with its old binary until \`systemctl restart leasehold@NAME\`, which leaves its target alone.
docs/systemd.md tells the rest.
END
}

uninstall_all() {
  if running; then
    # Only the agents: their targets go on with the files that they have.
    for unit in $(systemctl list-units --all --plain --no-legend 'leasehold@*.service' | sed 's/ .*//'); do
      systemctl disable --now "$unit" || say "cannot stop $unit"
    done
    # Those that are enabled and not loaded, too.
    rm -f /etc/systemd/system/*.wants/leasehold@*.service
  fi
  rm -f "$dest$prefix/bin/agent" "$dest$units/leasehold@.service" "$dest$units/leasehold@litellm.service.d/litellm.conf" \
    "$dest$units/litellm.service.d/leasehold.conf" "$dest$sysusers" "$dest$tmpfiles"
  # Without the drop-in they still run what they ran.
  for file in litellm.service litellm.socket; do
    running && systemctl is-active --quiet "$file" && say "$file is active: its unit stays until you stop it and run this again" && continue
    [ ! -e "$dest$units/$file" ] || [ "$file" != litellm.service ] || is_ours "$dest$units/$file" || continue
    rm -f "$dest$units/$file"
  done
  rmdir "$dest$units/leasehold@litellm.service.d" "$dest$units/litellm.service.d" 2>/dev/null || true
  rm -rf "$dest$examples"
  if cmp -s "$here/leasehold.rules" "$dest$rules"; then rm -f "$dest$rules"; fi
  if [ "$purge" = yes ]; then purge_all; else say "left: /etc/leasehold, /etc/credstore, /var/lib/leasehold, /var/log/leasehold, /run/litellm (--purge)"; fi
  ! running || systemctl daemon-reload
}

purge_all() {
  rm -rf "${dest}/etc/leasehold" "$dest/var/lib/leasehold" "$dest/var/log/leasehold" "$dest/run/leasehold" "$dest/run/litellm" "$dest$rules"
  rm -f "$dest"/etc/credstore/leasehold.* "$dest"/etc/credstore.encrypted/leasehold.*
  [ -n "$dest" ] || ! getent passwd leasehold >/dev/null || userdel leasehold
  [ -n "$dest" ] || ! getent group leasehold >/dev/null || groupdel leasehold
}

if [ "$uninstall" = yes ]; then uninstall_all; else install_all; fi
