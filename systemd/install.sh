#!/bin/sh
# Puts the agent and what systemd needs for it in place, or takes it away again. Can be run any number of times.
#
#   install.sh [--binary FILE]     FILE: by default ../target/release/agent, or `agent` beside this script
#   install.sh --uninstall         stops the agents, not LiteLLM; leaves configs, keys, state, logs and the rendered files
#   install.sh --uninstall --purge removes those too, and the user `leasehold`
#
# PREFIX (default /usr/local) is where binary, units, sysusers, tmpfiles, man pages and examples go. With DESTDIR nothing outside
# it is touched: no user is made, and systemd is not told. A config is never overwritten, and never written: only its folder is.
# A litellm.service or litellm.socket that is not from here, or was changed, is never overwritten and never removed.
# Exit: 0 done; 64 usage; 66 no binary; 69 systemd is too old; 77 not root.
set -eu
# What is put in place is for all to read, whatever the caller's umask: the agent runs as a user of its own.
umask 022

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
[ -n "$dest" ] || [ "$(id -u)" = 0 ] || { say "run it as root (sudo $0 …), or with DESTDIR=FOLDER to make a package"; exit 77; }

units=$prefix/lib/systemd/system
sysusers=$prefix/lib/sysusers.d/leasehold.conf
tmpfiles=$prefix/lib/tmpfiles.d/leasehold.conf
examples=$prefix/share/leasehold
man=$prefix/share/man/man1
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

# is_ours FILE: whether a unit is as this release has it, or as an earlier run put it there: that kept a copy.
is_ours() { [ ! -L "$1" ] && { cmp -s "$here/${1##*/}" "$1" || cmp -s "$dest$examples/units/${1##*/}" "$1"; }; }

# foreign NAME: the machine's own unit of this name. Fails where it has none.
foreign() {
  for dir in /etc/systemd/system /run/systemd/system /run/systemd/generator /usr/local/lib/systemd/system \
    /usr/lib/systemd/system /lib/systemd/system "$units"; do
    if [ -e "$dest$dir/$1" ] || [ -L "$dest$dir/$1" ]; then
      is_ours "$dest$dir/$1" || { echo "$dir/$1"; return; }
    fi
  done
  return 1
}

# put_unit NAME: unless the machine has one of its own.
put_unit() {
  if theirs=$(foreign "$1"); then
    say "kept $theirs, which is not from here: no other $1 is installed"
    return
  fi
  put 0644 "$here/$1" "$units/$1"
  put 0644 "$here/$1" "$examples/units/$1"
}

# What a LiteLLM of the operator's own is in for.
tell_of_drop_in() {
  cat >&2 <<END
install.sh: your litellm.service got one drop-in, $units/litellm.service.d/leasehold.conf. From its next
  start on it waits for leasehold@litellm.service, has the environment of /run/litellm/env, and runs the drop-in's ExecStart=.
  Its user must be of the group litellm. What does not fit (paths, port): systemctl edit litellm.service
  To go on without the drop-in until all is set up:
  mkdir -p /etc/systemd/system/litellm.service.d && ln -s /dev/null /etc/systemd/system/litellm.service.d/leasehold.conf
END
}

# Man pages and completions, as the binary tells them itself.
document() {
  agent=$dest$prefix/bin/agent
  # Folders of its making follow a stricter umask than ours.
  mkdir -p "$dest$man"
  # Not what is built for another machine.
  "$agent" man --dir "$dest$man" >/dev/null 2>&1 || { say "no man pages and completions: $agent does not run here"; return; }
  completion bash "$prefix/share/bash-completion/completions/agent"
  completion zsh "$prefix/share/zsh/site-functions/_agent"
  completion fish "$prefix/share/fish/vendor_completions.d/agent.fish"
}

completion() {
  mkdir -p "$dest${2%/*}"
  "$agent" completions "$1" >"$dest$2.new"
  mv -f "$dest$2.new" "$dest$2"
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
  put_unit litellm.service
  put_unit litellm.socket
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
  document

  if [ -z "$dest" ]; then
    systemd-sysusers "$sysusers"
    systemd-tmpfiles --create "$tmpfiles"
  fi
  ! running || systemctl daemon-reload
  ! foreign litellm.service >/dev/null || tell_of_drop_in
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

# Whether LiteLLM runs, is about to, or is waited for at its socket.
litellm_runs() {
  running || return 1
  for unit in litellm.service litellm.socket; do
    case $(systemctl is-active "$unit" || true) in inactive | failed | unknown | '') ;; *) return 0 ;; esac
  done
  return 1
}

uninstall_all() {
  if running; then
    # Only the agents: their targets go on with the files that they have.
    for unit in $(systemctl list-units --all --plain --no-legend 'leasehold@*.service' | sed 's/ .*//'); do
      systemctl disable --now "$unit" || say "cannot stop $unit"
      systemctl reset-failed "$unit" 2>/dev/null || true
    done
  fi
  # Those that are enabled and not loaded, too.
  rm -f "$dest"/etc/systemd/system/*.wants/leasehold@*.service
  rm -f "$dest$units/leasehold@.service" "$dest$units/leasehold@litellm.service.d/litellm.conf" "$dest$sysusers" "$dest$tmpfiles"
  rm -rf "$dest$examples/drop-ins" "$dest$examples/litellm-systemd" "$dest$examples/leasehold.rules"
  if cmp -s "$here/leasehold.rules" "$dest$rules"; then rm -f "$dest$rules"; fi
  rm -f "$dest$prefix/bin/agent" "$dest$prefix/share/bash-completion/completions/agent" \
    "$dest$prefix/share/zsh/site-functions/_agent" "$dest$prefix/share/fish/vendor_completions.d/agent.fish"
  for page in "$dest$man"/agent.1 "$dest$man"/agent-*.1; do
    # Other programs are called agent, too.
    ! grep -qs '^\.TH .*"leasehold ' "$page" || rm -f "$page"
  done

  # What LiteLLM is run by, it needs for its next start, too.
  in_use=no
  if litellm_runs; then in_use=yes; else uninstall_litellm; fi
  rmdir "$dest$units/leasehold@litellm.service.d" "$dest$units/litellm.service.d" "$dest$examples" 2>/dev/null || true
  ! running || systemctl daemon-reload
  if [ "$purge" = yes ]; then
    purge_all
  else
    say "left: /etc/leasehold, /etc/credstore, /var/lib/leasehold, /var/log/leasehold, /run/litellm (--purge)"
  fi
  [ "$in_use" = no ] || tell_of_use
}

uninstall_litellm() {
  for unit in litellm.service litellm.socket; do
    if [ -e "$dest$units/$unit" ] && is_ours "$dest$units/$unit"; then
      rm -f "$dest$units/$unit" "$dest"/etc/systemd/system/*.wants/"$unit"
    fi
  done
  rm -f "$dest$units/litellm.service.d/leasehold.conf"
  rm -rf "$dest$examples/units"
}

tell_of_use() {
  cat >&2 <<END
install.sh: LiteLLM runs, and goes on, with the keys that it has. Left for its next start: litellm.service, litellm.socket,
  $units/litellm.service.d/leasehold.conf and /run/litellm. A reboot empties /run: before that, give it a config and an
  environment of its own (systemctl edit litellm.service), or stop it (systemctl stop litellm.socket litellm.service);
  then run this again.
END
}

purge_all() {
  rm -rf "$dest/etc/leasehold" "$dest/var/lib/leasehold" "$dest/var/log/leasehold" "$dest/run/leasehold" "$dest$rules"
  rm -f "$dest"/etc/credstore/leasehold.* "$dest"/etc/credstore.encrypted/leasehold.*
  if [ "$in_use" = no ]; then
    rm -rf "$dest/run/litellm"
  elif [ -d /run/litellm ]; then
    # Else they would be those of whoever gets the agent's number next.
    chown -R root /run/litellm
  fi
  [ -n "$dest" ] || ! getent passwd leasehold >/dev/null || userdel leasehold
  [ -n "$dest" ] || ! getent group leasehold >/dev/null || groupdel leasehold
}

if [ "$uninstall" = yes ]; then uninstall_all; else install_all; fi
