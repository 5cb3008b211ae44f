# For scripts/quickstart, scripts/test and scripts/bench: what they need on a Debian machine, and the build.
# shellcheck shell=sh

tree=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")/.." && pwd)
# The profile of what is run on the lab: `release` unless told.
profile=${STAMPEDE_PROFILE:-release}
export PATH="$PATH:/usr/sbin:/sbin"

say() {
    printf '%s\n' "$*" >&2
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "only root can do this: it makes network namespaces and starts systemd in containers"
}

# missing THING PACKAGE …: prints the packages whose thing (a program, or a file by its path) is not there.
missing() {
    while [ $# -ge 2 ]; do
        case $1 in
            /*) [ -e "$1" ] || printf '%s ' "$2" ;;
            *) command -v "$1" >/dev/null 2>&1 || printf '%s ' "$2" ;;
        esac
        shift 2
    done
}

# install_packages PACKAGE …: nothing where there is none to install.
install_packages() {
    [ $# -gt 0 ] || return 0
    command -v apt-get >/dev/null 2>&1 || fail "missing here, and there is no apt-get to bring it: $*"
    [ "$(id -u)" = 0 ] || fail "missing here, and only root can install it: $*"
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    set -- -qq -y -o DPkg::Lock::Timeout=120 --no-install-recommends install "$@"
    log=$(mktemp)
    # A fresh machine's package lists are empty or old: they are fetched when the first try fails.
    if ! apt-get "$@" >"$log" 2>&1; then
        { apt-get -qq -o DPkg::Lock::Timeout=120 update && apt-get "$@"; } >"$log" 2>&1 || {
            tail -n 20 "$log" >&2
            rm -f "$log"
            fail "apt-get could not install what is missing"
        }
    fi
    rm -f "$log"
}

# What building needs: a linker, the .proto files that etcd's own are written with, and libvirt for the one program that links it.
install_build() {
    # shellcheck disable=SC2046 # words on purpose
    install_packages $(missing cc gcc /usr/include/stdio.h libc6-dev protoc protobuf-compiler \
        /usr/include/google/protobuf/empty.proto libprotobuf-dev python3 python3 \
        /usr/include/libvirt/libvirt.h libvirt-dev pkg-config pkg-config)
    command -v cargo >/dev/null 2>&1 || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    command -v cargo >/dev/null 2>&1 || fail "cargo is not there: Rust 1.90 or later is needed, with clippy and rustfmt. Install it by rustup; then
run this again."
}

# What the lab needs beside it.
install_lab() {
    # shellcheck disable=SC2046
    install_packages $(missing mmdebstrap mmdebstrap systemd-nspawn systemd-container ip iproute2 curl curl jq jq)
}

# What packages are made with, and the files of cloud-config/ tried.
install_packaging() {
    # shellcheck disable=SC2046
    install_packages $(missing mksquashfs squashfs-tools patchelf patchelf objdump binutils dpkg-deb dpkg \
        ignition-validate ignition)
}

# What the Rust tests need: a real etcd, nft and ip to look at what the agent made, and who else packs images.
install_tests() {
    # shellcheck disable=SC2046
    install_packages $(missing etcd etcd-server etcdctl etcd-client ip iproute2 nft nftables iptables iptables \
        gzip gzip bzip2 bzip2 xz xz-utils zstd zstd)
}

# What the disk of the small guest is made of.
install_guest() {
    # shellcheck disable=SC2046
    install_packages $(missing grub-mkimage grub-common /usr/lib/grub/i386-pc/boot.img grub-pc-bin \
        /usr/bin/busybox busybox-static modprobe kmod)
}

# Who else answers questions for names, and who asks them.
install_names() {
    # shellcheck disable=SC2046
    install_packages $(missing dnsmasq dnsmasq-base dnsperf dnsperf)
}

# Python programs of others that the API is tried with, in a place of their own (target/clients).
install_clients() {
    clients=$tree/target/clients
    [ ! "$clients/installed" -nt "$tree/tests/clients.txt" ] || return 0
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
    say "installing what drives the API from outside"
    python3 -m venv "$clients" && "$clients/bin/pip" install -q --disable-pip-version-check -r "$tree/tests/clients.txt" ||
        fail "pip could not install what tests/clients.txt names"
    : >"$clients/installed"
}

# What the web UI is looked at with.
install_browser() {
    # shellcheck disable=SC2046
    install_packages $(missing /usr/bin/chromium chromium)
    install_clients
}

# What an emulated machine with a kernel of its own needs.
install_kernel() {
    # shellcheck disable=SC2046
    install_packages $(missing qemu-system-x86_64 qemu-system-x86 /usr/bin/busybox busybox-static modprobe kmod strip binutils \
        ip iproute2 nft nftables etcd etcd-server python3 python3)
}

# What the web UI is built with: Node.js 18 or later.
install_node() {
    # shellcheck disable=SC2046
    install_packages $(missing node nodejs npm npm)
}

# A name for all that the built UI follows from.
webui_sources() {
    (cd "$tree/webui" && find src public scripts index.html package.json package-lock.json tsconfig.json vite.config.ts -type f -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1)
}

# The web UI, into webui/dist/ui. Built once for the same sources.
build_webui() {
    sources=$(webui_sources)
    [ "$(cat "$tree/webui/dist/ui/sources.txt" 2>/dev/null)" != "$sources" ] || return 0
    install_node
    say "building the web UI"
    (
        cd "$tree/webui"
        # Installed once for the same lock file. Nothing of it may run while it is installed.
        if ! cmp -s package-lock.json node_modules/installed-lock.json; then
            npm ci --ignore-scripts --no-fund --no-audit --loglevel=error && cp package-lock.json node_modules/installed-lock.json
        fi
        npm run --silent build
    ) || return 1
    printf '%s\n' "$sources" >"$tree/webui/dist/ui/sources.txt"
}

# The agent and the program that links libvirt, for the lab, with the web UI in it; without it where Node.js cannot be had, or with STAMPEDE_WEBUI=no.
build() {
    [ "${STAMPEDE_WEBUI:-yes}" = no ] || build_webui || say "the web UI could not be built; the agent is built without a new one"
    if [ "$profile" = dev ]; then directory=debug; else directory=$profile; fi
    cargo build --locked --profile "$profile" --manifest-path "$tree/Cargo.toml" -p stampede -p stampede-libvirt \
        --bin stampede --bin stampede-libvirt || return 1
    STAMPEDE_BINARY=${CARGO_TARGET_DIR:-$tree/target}/$directory/stampede
    export STAMPEDE_BINARY
}
