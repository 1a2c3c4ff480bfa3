#!/bin/bash
# Build kubeadm, kubelet, kubectl and the control plane from Debian's source package.
#
# Runs as root inside the builder root file system (Debian 12, lab/builder.py),
# with /build on a real disk (4 GB while it works) and the results in /out/bin.
# Debian 12 is the newest release whose source package carries the whole tree;
# later ones ship kubectl alone. Started again, it goes on where it stopped.
set -euo pipefail

programs=(kubeadm kubelet kubectl kube-apiserver kube-controller-manager
          kube-scheduler kube-proxy crictl labdns)

started=$(date +%s)
stage() { echo "stage: $* ($(( $(date +%s) - started )) s)"; }
# quietly LOG COMMAND...: its output is read only when it fails.
quietly() { "${@:2}" >"$1" 2>&1 || { tail -n 30 "$1"; exit 1; }; }

# GOPATH mode with the vendored tree: `go build -mod=vendor` fails on this source.
export HOME=/root GO111MODULE=auto GOFLAGS='' GOPROXY=off GOSUMDB=off
export PATH=/usr/lib/go/bin:/usr/sbin:/usr/bin:/sbin:/bin
export GOCACHE=/build/go-cache
arch=$(dpkg --print-architecture)
export KUBE_BUILD_PLATFORMS="linux/$arch"
# Static, like the control plane's own: they are put into an image, or meet any libc.
export KUBE_STATIC_OVERRIDES="crictl labdns"

mkdir -p /out/bin
if [ ! -d /build/source ]; then
    stage "fetching Debian's source package"
    rm -rf /build/fetch
    mkdir /build/fetch
    cd /build/fetch
    apt-get update -qq
    quietly /build/fetch.log apt-get source -qq kubernetes
    mv /build/fetch /build/source
fi
cd /build/source/kubernetes-*/

# With the reflect2 that the source vendors everything compiles and kubeadm
# panics when run (Go >= 1.18 changed the runtime it looks into).
rm -rf vendor/github.com/modern-go/reflect2
cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/
rm -f vendor/github.com/modern-go/reflect2/*_test.go

# Two small programs that Debian lacks, built on the libraries this tree vendors.
mkdir -p cmd/crictl cmd/labdns
cp /lab/crictl.go cmd/crictl/main.go
cp /lab/dns.go cmd/labdns/main.go

stage "generating sources"
quietly /build/generate.log make generated_files
for program in "${programs[@]}"; do
    stage "compiling $program"
    quietly "/build/$program.log" make WHAT="cmd/$program" GOLDFLAGS="-s -w"
    install -m 0755 "_output/local/bin/linux/$arch/$program" /out/bin/
done

# Static, so that its image needs nothing else (kubeadm's pause container).
stage "compiling pause"
cat >/build/pause.c <<'C'
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
    signal(SIGINT, stop); signal(SIGTERM, stop); signal(SIGCHLD, reap);
    for (;;) pause();
}
C
gcc -Os -static -s -o /out/bin/pause /build/pause.c
stage "done"
