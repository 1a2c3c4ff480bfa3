"""The settings: every key that the pillar may have, with its kind, its default and its meaning.

To add a setting, write it here and run ``tools/settings``: from this table come the checks before
every apply, ``salt-run rack.explain``, ``pillar/defaults.sls`` and ``docs/settings.md``.

:class:`Key` is one setting, :class:`Group` a mapping of settings, :class:`Table` a mapping in which the
user chooses the names, each with a group of settings, :class:`Like` what overrides another group. The
kinds are in ``_utils/rackvalues.py``; what several settings must be together is in
``_utils/rackrules.py``. Nothing but data here, and no import: it is read for every pillar.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Key(NamedTuple):
    """One setting."""

    kind: str  # a name in rackvalues.KINDS
    default: Any = None
    meaning: str = ""
    used: str = ""  # the files that read it, with spaces between; empty: those of its group
    null: bool = False  # may be null
    required: str = ""  # the user has to set it: there is no default, and this is the remedy
    least: int = 0  # limits of a number, or of the prefix of a network
    most: int = 0
    unit: str = ""  # of a number
    choices: tuple[str, ...] = ()
    what: str = ""  # what a choice is, what a list has, why a network has these limits
    of: Any = None  # the Key that each item of a list is
    empty: bool = True  # a list may be empty


class Group(NamedTuple):
    """A mapping with these settings and no others."""

    meaning: str
    keys: dict[str, Any]
    used: str = ""  # of those of its settings that name no files of their own


class Table(NamedTuple):
    """A mapping from names that the user chooses to settings."""

    names: str  # the kind of a name
    name: str  # what a name is, for the documentation: nodes.<id>
    meaning: str
    keys: dict[str, Any]
    used: str = ""
    example: str = ""  # of one entry, for messages and the comment in the defaults
    required: str = ""
    bare: bool = False  # an entry may be null, which is as good as {}


class Like(NamedTuple):
    """A mapping with any of the settings of a top-level group, which it overrides."""

    group: str
    meaning: str


# Whom a firewall lets in; 0.0.0.0/0 is everybody
_SOURCE = Key("address-or-network", least=0, most=32, what="it is a network of IPv4")

SCHEMA: dict[str, Any] = {
    "rack": Group(
        "What the rack is called, and where it is",
        used="_modules/node.py",
        keys={
            "name": Key(
                "rack-name",
                "saltberry",
                "the cluster's name, in kubeadm's and kubectl's configuration",
                used="_modules/kubeadm.py salt/kubeadm/initialized.sls salt/kubeadm/joined.sls"
                " salt/kubeadm/absent.sls",
            ),
            "domain": Key(
                "domain",
                "rack.lan",
                "the nodes' domain: pi-01 is also pi-01.rack.lan in every node's /etc/hosts",
            ),
            "network": Key(
                "network",
                meaning="the IPv4 network that the Pis are on",
                used="_modules/node.py _runners/enrol.py salt/mirror/files.sls salt/mirror/pull_through.sls",
                required="write the network the Pis are on, for example 192.168.1.0/24",
                least=8,
                most=30,
                what="it is the network of the Pis",
            ),
        },
    ),
    "nodes": Table(
        "node-id",
        "id",
        "The nodes by minion id, which is their host name: at least the master and the control"
        " plane. A minion that is not named here is a worker.",
        used="_utils/rackspec.py _modules/node.py _runners/rack.py",
        example="pi-01: {ip: 192.168.1.21}",
        required="name at least the master and the control plane, for example"
        " cp1: {ip: 192.168.1.11, roles: [control_plane]}",
        bare=True,
        keys={
            "ip": Key(
                "address",
                meaning="its address in rack.network. A worker may go without",
                null=True,
                used="_utils/rackspec.py _modules/node.py _modules/nfs.py _modules/kubeadm.py",
            ),
            "roles": Key(
                "roles",
                meaning="what it is. storage: has the disk (NFS server, package and image mirror);"
                " master: runs the salt-master, exactly one node; control_plane: the first"
                " Kubernetes node, exactly one node; worker: runs pods. [worker] if left out",
                null=True,
                used="_utils/rackspec.py salt/top.sls",
            ),
            "wifi": Key(
                "yes-no",
                meaning="true: its card has the wifi of cards.wifi",
                used="_runners/enrol.py",
            ),
            "container_storage": Like(
                "container_storage",
                "what differs here from container_storage, for example {backend: disk}",
            ),
            "firewall": Like(
                "firewall", "what differs here from firewall, for example {enabled: true}"
            ),
            "system": Like(
                "system", "what differs here from system, for example {config_txt: {gpu_mem: 64}}"
            ),
        },
    ),
    "kubernetes": Group(
        "Kubernetes: its version, networks and packages",
        used="_modules/kubeadm.py _utils/kubeadm_config.py",
        keys={
            "version": Key(
                "kubernetes-version",
                "1.34.2",
                "the exact version, in quotes",
                used="_modules/node.py _modules/kubeadm.py _utils/kubeadm_config.py",
            ),
            "package_revision": Key(
                "package-revision",
                "1.1",
                "what follows the hyphen in the version of the package, in quotes:"
                " kubeadm=1.34.2-1.1",
                used="_modules/node.py",
            ),
            "pod_network": Key(
                "network",
                "10.244.0.0/16",
                "the pods' addresses; each node takes a /24 of it",
                used="_modules/kubeadm.py _utils/kubeadm_config.py salt/cni/routed.sls",
                # The controller manager keeps a bitmap of at most 2**16 node networks
                least=8,
                most=24,
                what="each node takes a /24 of it",
            ),
            "service_network": Key(
                "network",
                "10.96.0.0/12",
                "the services' addresses",
                # The API server refuses more than 2**20 addresses, and kubeadm fewer than ten
                # (the tenth is the cluster's DNS)
                least=12,
                most=28,
                what="the limits of Kubernetes",
            ),
            "service_domain": Key(
                "domain",
                "cluster.local",
                "services are called NAME.NAMESPACE.svc.cluster.local",
            ),
            "api_port": Key(
                "port",
                6443,
                "TCP port of the API server on the control plane",
                least=1,
                most=65535,
            ),
            "image_repository": Key(
                "image-repository",
                "registry.k8s.io",
                "where kubeadm takes the control plane's images from",
                used="_modules/node.py _modules/kubeadm.py _utils/kubeadm_config.py",
            ),
            "dns": Key(
                "yes-no",
                True,
                "false: no cluster DNS (kubeadm's coredns add-on is skipped)",
                used="_modules/kubeadm.py salt/kubernetes_dns/init.sls",
            ),
            "cni": Key(
                "choice",
                "flannel",
                "the pods' network. flannel: a daemon on each node, works everywhere; routed: a bridge on"
                " each node and routes between them, no daemon, all nodes on one switch. Fixed when the"
                " cluster is made. See docs/services/network.md",
                used="salt/cni/init.sls salt/cni/chosen.sls _runners/rack.py _modules/cni.py _modules/node.py",
                choices=("flannel", "routed"),
                what="CNI of this release",
            ),
            "dns_upstream": Key(
                "list",
                [],
                "name servers that the cluster's DNS asks for names which it does not know; none: those"
                " of the node that it runs on",
                used="_modules/coredns.py",
                of=Key("address"),
                what="addresses",
            ),
            "dns_hosts": Key(
                "yes-no",
                True,
                "whether pods find the nodes that have an ip here by name, as pi-01.rack.lan",
                used="_modules/coredns.py",
            ),
            "flannel": Group(
                "The flannel of kubernetes.cni",
                used="_modules/cni.py",
                keys={
                    "backend": Key(
                        "choice",
                        "vxlan",
                        "vxlan: pods' packets in packets of the nodes; host-gw: routes, faster, all nodes"
                        " on one switch. Fixed when the cluster is made",
                        used="_modules/cni.py _modules/node.py salt/cni/flannel.sls",
                        choices=("vxlan", "host-gw"),
                        what="backend of flannel",
                    ),
                    "image": Key(
                        "image", "ghcr.io/flannel-io/flannel:v0.28.9", "the daemon's image"
                    ),
                    "plugin_image": Key(
                        "image",
                        "ghcr.io/flannel-io/flannel-cni-plugin:v1.9.1-flannel3",
                        "the image with the plugin that kubelet calls",
                    ),
                },
            ),
            "repo": Group(
                "The apt repository with kubelet, kubeadm and kubectl."
                " {minor} becomes for example 1.34.",
                used="_modules/node.py salt/kubernetes/repository.sls",
                keys={
                    "url": Key(
                        "url-of-minor",
                        "https://pkgs.k8s.io/core:/stable:/v{minor}/deb/",
                        "where it is",
                    ),
                    "suite": Key(
                        "apt-suite", "/", "its suite", used="salt/kubernetes/repository.sls"
                    ),
                    "key_url": Key(
                        "url-of-minor",
                        "https://pkgs.k8s.io/core:/stable:/v{minor}/deb/Release.key",
                        "its signing key",
                    ),
                    "key_sha256": Key(
                        "sha256",
                        None,
                        "SHA-256 of that key in hex; null: trust what the URL gives on first use",
                        null=True,
                        used="salt/kubernetes/repository.sls",
                    ),
                },
            ),
            "ignore_preflight_errors": Key(
                "list",
                [],
                "checks that kubeadm shall only warn about, for example [NumCPU]",
                of=Key("preflight-check"),
                what="names of checks",
            ),
            "kubelet": Key(
                "mapping",
                {},
                "laid over our KubeletConfiguration, for example {maxPods: 50}; members take it over"
                " at their next state.apply",
                used="_modules/kubeadm.py _modules/kubelet.py",
            ),
            "kubelet_args": Key(
                "kubelet-args",
                {},
                "flags of kubelet that its configuration has no key for, for example {v: 2}",
                used="_modules/kubelet.py",
            ),
            "kube_proxy": Key("mapping", {}, "laid over our KubeProxyConfiguration"),
            "ticket_ttl": Key(
                "number",
                600,
                "seconds that a node has to join, from the moment its ticket is made",
                used="_runners/rack.py",
                least=60,
                most=86400,
                unit="seconds",
            ),
        },
    ),
    "containerd": Group(
        "The container engine that kubelet uses",
        used="_modules/node.py",
        keys={
            "registries": Table(
                "registry-host",
                "host",
                "other places to pull images from, by the registry's name as it stands in the"
                ' image\'s: docker.io: {endpoint: "http://192.168.1.10:5000"}',
                keys={
                    "endpoint": Key(
                        "url",
                        meaning="the URL to fetch from",
                        required="write the URL to fetch from, for example"
                        " http://192.168.1.10:5000",
                        used="_modules/node.py salt/containerd/configured.sls",
                    )
                },
            ),
            "pause_image": Key(
                "image",
                None,
                "the image that holds a pod's namespaces; null: the one that this kubeadm wants,"
                " from kubernetes.image_repository",
                null=True,
            ),
        },
    ),
    "mirror": Group(
        "The mirror of packages and images on the storage node, which nodes without internet"
        " install from",
        keys={
            "enabled": Key(
                "yes-no",
                True,
                "whether there is one",
                used="salt/mirror/init.sls salt/helm/mirror.sls",
            ),
            "listen": Key(
                "address",
                None,
                "the address to serve on; null: all of the storage node's",
                null=True,
                used="salt/mirror/files.sls salt/mirror/registry.sls salt/mirror/pull_through.sls",
            ),
            "packages": Key(
                "yes-no",
                False,
                "true: the nodes take Debian's packages from it instead of the internet, as far as"
                " `salt-run mirror.sync` has fetched them",
                used="salt/mirror/client.sls",
            ),
            "pull_through": Key(
                "list",
                [],
                "registries whose images the storage node keeps once a node has pulled them, for example"
                " [docker.io, registry.k8s.io]; some 20 MB of its memory for each. See docs/mirror.md",
                used="salt/mirror/init.sls _modules/pull_through.py",
                of=Key("domain"),
                what="registries' host names",
            ),
            "upstream": Group(
                "where `salt-run mirror.sync` takes from what it puts into the mirror. {minor}"
                " becomes for example 1.34. See docs/mirror.md",
                used="_runners/mirror.py",
                keys={
                    "debian": Key(
                        "list",
                        [],
                        "apt sources, a line each, for example"
                        ' ["deb http://deb.debian.org/debian bookworm main"]; none: those of the'
                        " storage node",
                        of=Key("apt-line"),
                        what="apt sources",
                    ),
                    "kubernetes": Key(
                        "url-of-minor",
                        "https://pkgs.k8s.io/core:/stable:/v{minor}/deb/",
                        "the apt repository of Kubernetes",
                    ),
                    "kubernetes_suite": Key("apt-suite", "/", "its suite"),
                    "kubernetes_key": Key(
                        "url-of-minor",
                        "https://pkgs.k8s.io/core:/stable:/v{minor}/deb/Release.key",
                        "its signing key",
                    ),
                    "kubernetes_key_sha256": Key(
                        "sha256",
                        None,
                        "SHA-256 of that key in hex; null: trust what the URL gives on first use",
                        null=True,
                    ),
                    "image_repository": Key(
                        "image-repository", "registry.k8s.io", "where kubeadm's images are"
                    ),
                    "registries": Table(
                        "registry-host",
                        "host",
                        "other places to copy images from, by the registry's name, as"
                        " containerd.registries; also those that mirror.pull_through asks",
                        keys={
                            "endpoint": Key(
                                "url",
                                meaning="the URL to copy from",
                                used="_runners/mirror.py _modules/pull_through.py",
                                required="write the URL to copy from, for example"
                                " http://192.168.1.10:5000",
                            )
                        },
                    ),
                },
            ),
        },
    ),
    "nfs": Group(
        "The share: the storage node's disk, served to the others over NFS. See docs/nfs.md",
        used="_modules/nfs.py",
        keys={
            "enabled": Key(
                "yes-no", True, "without a node that has the role storage there is none"
            ),
            "path": Key(
                "folder",
                "/srv/nfs",
                "on the storage node: <path>/nodes/<id> for each node, <path>/volumes/<name> for"
                " all",
                used="_modules/nfs.py salt/nfs/server/disk.sls salt/nfs/server/configured.sls",
            ),
            "disk": Key(
                "file-system",
                None,
                "UUID=... or LABEL=... of the file system to mount at nfs.path; null: a plain folder",
                null=True,
                used="_modules/nfs.py salt/nfs/server/disk.sls salt/nfs/server/configured.sls",
            ),
            "format": Key(
                "device-by-id",
                None,
                "/dev/disk/by-id/...: make ext4 on this device, named as nfs.disk says, if it is"
                " blank. A device with anything on it is refused, always",
                null=True,
                used="salt/nfs/server/disk.sls",
            ),
            "volumes": Table(
                "volume-name",
                "name",
                "shared by all nodes: media: {} or backups: {read_only: true}",
                keys={"read_only": Key("yes-no", meaning="true: the nodes cannot write to it")},
                bare=True,
            ),
            "mount": Key(
                "folder",
                "/srv/share",
                "on the other nodes: <mount>/node (its own folder), <mount>/volumes/<name>",
                used="_modules/nfs.py _modules/storage_backend.py",
            ),
            "manage_mounts": Key(
                "yes-no",
                True,
                "false: no exports and no mounts are made; you bring the share to <mount>/node"
                " yourself",
                used="_modules/nfs.py _modules/storage_backend.py",
            ),
        },
    ),
    "container_storage": Group(
        "Where docker and containerd keep images, containers and volumes. See"
        " docs/container-storage.md",
        used="_modules/storage_backend.py",
        keys={
            "backend": Key(
                "backend",
                "local",
                "local: the system's disk. disk: another disk of the node. nfs-image: an ext4 image"
                " on the share",
                choices=("local", "disk", "nfs-image"),
                what="backend",
            ),
            "disk": Key(
                "file-system",
                None,
                "for disk: UUID=... or LABEL=... of an ext4 or xfs file system",
                null=True,
            ),
            "size": Key(
                "size",
                "32G",
                "for nfs-image: what it may grow to. A larger size grows it; it is never shrunk",
            ),
            "mount": Key(
                "folder",
                "/srv/containers",
                "where disk or image is mounted; roots are <mount>/docker, <mount>/containerd",
            ),
            "pod_data": Key(
                "yes-no",
                False,
                "also move kubelet's pod data and the pods' logs (/var/lib/kubelet/pods,"
                " /var/log/pods)",
            ),
        },
    ),
    "docker": Group(
        "Docker for people (docker build, docker push), beside the containerd that kubelet uses",
        used="salt/docker/configured.sls",
        keys={
            "enabled": Key(
                "yes-no",
                False,
                "whether nodes that run pods have it",
                used="salt/roles/worker/init.sls salt/roles/control_plane/init.sls"
                " salt/docker/absent.sls",
            ),
            "log_max_size": Key(
                "log-size", "10m", "a container's log file is rotated at this size (k, m or g)"
            ),
            "log_max_file": Key(
                "number", 3, "and so many of them are kept", least=1, most=100, unit="files"
            ),
            "prune_days": Key(
                "number",
                0,
                "each week, remove what nobody has used for so many days: stopped containers,"
                " build cache, images without a name; never volumes. 0: never",
                used="salt/docker/pruned.sls",
                least=0,
                most=365,
                unit="days",
            ),
        },
    ),
    "services": Group(
        "What runs in the cluster for people. Each is off until you say enabled: true, and what it leaves"
        " when it is turned off again is its data. See docs/services.md",
        keys={
            "storage": Group(
                "Volumes on the share, for pods that ask for one. See docs/services.md",
                used="salt/services/init.sls _modules/volumes.py",
                keys={
                    "enabled": Key("yes-no", False, "whether pods get volumes on the share"),
                    "volumes": Table(
                        "object-name",
                        "name",
                        "a folder <nfs.path>/volumes/<name> each, and a PersistentVolume of that name, for"
                        " example registry: {size: 50G}",
                        used="_modules/volumes.py _modules/nfs.py",
                        example="registry: {size: 50G}",
                        keys={
                            "size": Key(
                                "size",
                                meaning="what claims are told that it holds; nothing stops a pod from"
                                " writing more",
                                required="write what it may hold, for example 10G",
                            ),
                            "access": Key(
                                "list",
                                meaning="how claims may ask for it; [ReadWriteOnce, ReadWriteMany] if"
                                " left out",
                                of=Key(
                                    "choice",
                                    choices=("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"),
                                    what="access mode",
                                ),
                                what="access modes",
                                empty=False,
                            ),
                            "claim": Key(
                                "namespaced-name",
                                meaning="the only claim that may have it, as namespace/name; any claim if"
                                " left out",
                                null=True,
                            ),
                            "owner": Key(
                                "number",
                                meaning="the user, by number, that everything in it belongs to, and that"
                                " the pod runs as; 100000 if left out",
                                least=1,
                                most=2147483647,
                            ),
                        },
                    ),
                    "dynamic": Group(
                        "volumes that are made when a claim asks for one, by csi-driver-nfs, as the default"
                        " StorageClass `share`. Needs nfs.manage_mounts",
                        keys={
                            "enabled": Key("yes-no", False, "whether they are"),
                            "on_delete": Key(
                                "choice",
                                "archive",
                                "what becomes of the data when its claim is deleted. archive: its folder"
                                " is renamed archived-...; delete: it is deleted",
                                choices=("archive", "delete"),
                                what="way to go",
                            ),
                            "driver_image": Key(
                                "image",
                                "registry.k8s.io/sig-storage/nfsplugin:v4.13.5",
                                "csi-driver-nfs",
                            ),
                            "provisioner_image": Key(
                                "image",
                                "registry.k8s.io/sig-storage/csi-provisioner:v6.3.0",
                                "what watches claims",
                            ),
                            "registrar_image": Key(
                                "image",
                                "registry.k8s.io/sig-storage/csi-node-driver-registrar:v2.17.0",
                                "what tells kubelet of the driver",
                            ),
                        },
                    ),
                },
            ),
            "registry": Group(
                "A registry of the rack's own: docker push localhost:5000/... on every node. See"
                " docs/services.md",
                used="salt/services/init.sls _modules/rack_registry.py",
                keys={
                    "enabled": Key(
                        "yes-no",
                        False,
                        "whether there is one; needs services.storage with its volume",
                        used="salt/services/init.sls salt/services/nodes.sls _modules/rack_registry.py",
                    ),
                    "image": Key("image", "docker.io/library/registry:2.8.3", "what runs"),
                    "volume": Key(
                        "object-name",
                        "registry",
                        "which of services.storage.volumes has the images",
                    ),
                    "port": Key(
                        "number",
                        5000,
                        "where it answers on each node, on localhost only",
                        used="salt/services/registry/node.sls salt/services/registry/node_absent.sls",
                        least=1024,
                        most=65535,
                    ),
                    "cluster_ip": Key(
                        "address",
                        None,
                        "its address in kubernetes.service_network; null: the fiftieth, or the last of a"
                        " smaller one",
                        null=True,
                    ),
                    "collect": Key(
                        "timer",
                        "Sun 03:30",
                        "when what no image needs any more is deleted (systemd's OnCalendar); the registry"
                        " is away for as long as that takes. null: never",
                        null=True,
                        used="salt/services/registry/collected.sls",
                    ),
                    "collect_untagged": Key(
                        "yes-no",
                        False,
                        "true: also images whose tag was pushed anew. Registries before 3.0 then also"
                        " delete the parts of images for several architectures",
                    ),
                    "lan": Group(
                        "the registry for other machines of your network, by TLS on each node's address."
                        " Certificate, key and passwords are in a Secret that you make",
                        keys={
                            "enabled": Key(
                                "yes-no",
                                False,
                                "whether they may",
                                used="salt/services/registry/init.sls _modules/rack_registry.py",
                            ),
                            "port": Key("number", 30500, "its NodePort", least=30000, most=32767),
                            "password": Key(
                                "yes-no",
                                True,
                                "false: without name and password, for whoever reaches the port",
                            ),
                        },
                    ),
                },
            ),
            "metrics": Group(
                "What the nodes and pods use: kubectl top, InfluxDB, Grafana. See docs/services/metrics.md",
                used="salt/services/init.sls salt/services/metrics/node.sls _modules/metrics.py",
                keys={
                    "enabled": Key("yes-no", False, "whether it is measured"),
                    "interval": Key(
                        "number",
                        30,
                        "seconds from one measurement to the next",
                        used="_modules/metrics.py salt/services/metrics/throttling.sls",
                        least=10,
                        most=300,
                    ),
                    "retention_days": Key(
                        "number", 90, "days that figures are kept", least=1, most=3650
                    ),
                    "volume": Key(
                        "object-name",
                        "influxdb",
                        "the volume of services.storage with InfluxDB's data; null: on the disk of the node"
                        " that it runs on, and gone with its pod",
                        null=True,
                    ),
                    "influxdb": Group(
                        "The database of figures, and the collector that fills it",
                        keys={
                            "enabled": Key(
                                "yes-no",
                                True,
                                "false: only the exporters on the nodes, for a Prometheus of your own",
                            ),
                            "image": Key(
                                "image", "docker.io/library/influxdb:1.8.10", "InfluxDB 1"
                            ),
                            "collector_image": Key(
                                "image",
                                "quay.io/prometheus/prometheus:v2.55.1",
                                "Prometheus 2, as agent; of 3 the flags differ",
                            ),
                        },
                    ),
                    "grafana": Group(
                        "The figures as boards in a browser",
                        keys={
                            "enabled": Key("yes-no", True, "whether there is one; needs influxdb"),
                            "image": Key("image", "docker.io/grafana/grafana:12.1.1", "Grafana"),
                            "node_port": Key(
                                "number",
                                None,
                                "port on each node at which it answers; null: only by kubectl port-forward",
                                null=True,
                                least=30000,
                                most=32767,
                            ),
                        },
                    ),
                    "metrics_server": Group(
                        "kubectl top, and autoscaling",
                        keys={
                            "enabled": Key("yes-no", True, "whether there is one"),
                            "image": Key(
                                "image",
                                "registry.k8s.io/metrics-server/metrics-server:v0.8.0",
                                "metrics-server",
                            ),
                        },
                    ),
                },
            ),
            "dashboard": Group(
                "Headlamp: the cluster in a browser. See docs/services/dashboard.md",
                used="salt/services/init.sls salt/services/dashboard/init.sls",
                keys={
                    "enabled": Key("yes-no", False, "whether there is one"),
                    "image": Key("image", "ghcr.io/headlamp-k8s/headlamp:v0.43.0", "Headlamp"),
                    "node_port": Key(
                        "number",
                        None,
                        "port on each node at which it answers; null: only by kubectl port-forward",
                        null=True,
                        least=30000,
                        most=32767,
                    ),
                },
            ),
            "ingress": Group(
                "Traefik: web services by their names, on the nodes' own addresses or on addresses of"
                " their own. See docs/services/network.md",
                used="_modules/ingress.py",
                keys={
                    "enabled": Key(
                        "yes-no", False, "whether there is one", used="salt/services/init.sls"
                    ),
                    "image": Key("image", "docker.io/library/traefik:v3.7.13", "Traefik's image"),
                    "nodes": Key(
                        "list",
                        [],
                        "the nodes on whose ports 80 and 443 it answers; none: all that take pods, but"
                        " one with the mirror, which has port 80 itself",
                        of=Key("node-id"),
                        what="ids of nodes",
                    ),
                    "load_balancer": Key(
                        "choice",
                        "none",
                        "metallb: it answers on the first of addresses instead, wherever it runs; further"
                        " ones are for other Services of type LoadBalancer",
                        used="_modules/ingress.py _modules/helm.py",
                        choices=("none", "metallb"),
                        what="load balancer of this release",
                    ),
                    "addresses": Key(
                        "list",
                        [],
                        "for metallb: addresses in rack.network that nobody else has or is given, for"
                        " example [192.168.1.240-192.168.1.249]",
                        of=Key("address-range"),
                        what="ranges of addresses",
                    ),
                    "metallb_repo": Key(
                        "url",
                        "https://metallb.github.io/metallb",
                        "the repository with MetalLB's chart",
                        used="_modules/helm.py",
                    ),
                    "metallb_version": Key(
                        "chart-version",
                        "0.15.3",
                        "the version of its chart, in quotes",
                        used="_modules/helm.py",
                    ),
                },
            ),
            "certificates": Group(
                "cert-manager with a private authority of the rack. See docs/services/network.md",
                used="_modules/rack_ca.py",
                keys={
                    "enabled": Key(
                        "yes-no",
                        False,
                        "whether there are any",
                        used="salt/services/init.sls _modules/helm.py",
                    ),
                    "domains": Key(
                        "list",
                        [],
                        "for which names the authority may sign, besides rack.domain, the services' own and"
                        " addresses in rack.network. Fixed when it is made",
                        of=Key("domain"),
                        what="domains",
                    ),
                    "chart": Key(
                        "oci-chart",
                        "oci://quay.io/jetstack/charts/cert-manager",
                        "cert-manager's chart",
                        used="_modules/helm.py",
                    ),
                    "version": Key(
                        "chart-version",
                        "v1.20.3",
                        "the version of its chart, in quotes",
                        used="_modules/helm.py",
                    ),
                },
            ),
        },
    ),
    "helm": Group(
        "Helm charts on the cluster. See docs/services/helm.md",
        used="_modules/helm.py salt/helm/mirror.sls",
        keys={
            "releases": Table(
                "release-name",
                "name",
                "The releases by name, each from one chart: repo and chart, or oci, or file. One that is"
                " taken out of here is uninstalled; those of others are left alone",
                used="_modules/helm.py salt/helm/init.sls salt/helm/mirror.sls",
                example="greeter: {namespace: web, file: salt://charts/greeter}",
                keys={
                    "namespace": Key(
                        "kubernetes-name",
                        meaning="its namespace, made if there is none; left out: default",
                    ),
                    "chart": Key("chart-name", meaning="with repo: the chart's name in it"),
                    "repo": Key(
                        "url",
                        meaning="URL of a repository of charts, for example"
                        " https://grafana.github.io/helm-charts",
                    ),
                    "oci": Key(
                        "oci-chart",
                        meaning="a chart in a registry, for example oci://ghcr.io/someone/charts/name",
                    ),
                    "file": Key(
                        "chart-file",
                        meaning="a chart as folder or .tgz: salt://charts/name, below salt/ of the"
                        " checkout on the master, or a path on the control plane",
                    ),
                    "version": Key(
                        "chart-version", meaning="with repo or oci: the chart's exact version"
                    ),
                    "plain_http": Key(
                        "yes-no", meaning="true: the registry of oci has no TLS, as the rack's own"
                    ),
                    "values": Key("mapping", meaning="laid over the chart's own. No secrets here"),
                    "values_from": Key(
                        "path",
                        meaning="a YAML file on the control plane that only root may read, laid over"
                        " values: for secrets. Nothing of it is ever shown",
                    ),
                    "timeout": Key(
                        "number",
                        meaning="seconds that its pods have to become available; left out: 300",
                        least=10,
                        most=3600,
                        unit="seconds",
                    ),
                },
            ),
            "source": Key(
                "url",
                None,
                "URL of the folder that Helm itself is fetched from, by its hash; null: the rack's mirror",
                null=True,
            ),
        },
    ),
    "system": Group(
        "What each node's system is like. See docs/node-preparation.md",
        used="_modules/node.py",
        keys={
            "packages": Key(
                "list",
                [],
                "further packages to install, for example [htop, vim]",
                used="salt/system/packages.sls",
                of=Key("package"),
                what="names of Debian packages",
            ),
            "security_updates": Key(
                "yes-no",
                False,
                "true: the distribution's security updates install themselves each day; never"
                " Kubernetes or a container engine, and nothing reboots. Needs a way to the internet",
                used="salt/updates/init.sls",
            ),
            "timezone": Key(
                "timezone",
                None,
                "for example Europe/Berlin; null: as it is",
                null=True,
                used="salt/clock/init.sls",
            ),
            "ntp_servers": Key(
                "list",
                [],
                "whom to ask for the time: names or addresses; none: whom the distribution asks",
                used="_modules/clock.py",
                of=Key("host"),
                what="host names or addresses",
            ),
            "wait_for_clock": Key(
                "yes-no",
                True,
                "a node without a battery clock joins only when its time is synchronised. false:"
                " with whatever time it has, for a rack without any source of time",
                used="_modules/clock.py",
            ),
            "journal": Key(
                "choice",
                "as-is",
                "where the system's log is kept. memory: gone after a boot, and nothing is written"
                " to the card; disk: kept; as-is: as the image has it",
                used="salt/journal/init.sls",
                choices=("as-is", "memory", "disk"),
                what="place for the journal",
            ),
            "journal_size": Key(
                "journal-size",
                "64M",
                "how large the journal may become, with memory and disk",
                used="salt/journal/init.sls",
            ),
            "watchdog_seconds": Key(
                "number",
                None,
                "the hardware resets a node whose system has hung for so long (a Pi's counts to"
                " 15); null: as the image has it",
                null=True,
                used="salt/watchdog/init.sls",
                least=5,
                most=600,
                unit="seconds",
            ),
            "wifi_power_save": Key(
                "yes-no",
                False,
                "false: wifi never sleeps, so that the node answers at once; true: as the image"
                " has it",
                used="salt/wifi/init.sls",
            ),
            "config_txt": Key(
                "config-txt",
                {},
                "lines of the Pi's config.txt, for example {gpu_mem: 16}; they count from the next"
                " boot",
                used="salt/firmware/init.sls",
            ),
        },
    ),
    "users": Table(
        "user-name",
        "name",
        "People on every node, for example anna: {ssh_keys: [ssh-ed25519 AAAA...], sudo: true}."
        " Whoever is not named here is left alone",
        used="salt/users/init.sls",
        bare=True,
        keys={
            "ssh_keys": Key(
                "list",
                meaning="public keys, a line each: all that may log in as this user; left out: as"
                " it is",
                of=Key("ssh-key"),
                what="public ssh keys",
                empty=False,
            ),
            "sudo": Key("yes-no", meaning="true: may do everything, without a password"),
            "groups": Key(
                "list",
                meaning="groups to be in, as far as the node has them, for example [docker]",
                of=Key("user-name"),
                what="names of groups",
            ),
            "shell": Key("shell", meaning="login shell, for example /bin/zsh"),
            "absent": Key("yes-no", meaning="true: there is no such user; the home stays"),
        },
    ),
    "ssh": Group(
        "The ssh server, where a node has one. Nothing here installs or starts it",
        used="salt/sshd/init.sls",
        keys={
            "harden": Key(
                "yes-no", True, "no waiting for name servers at login, and what passwords says"
            ),
            "passwords": Key(
                "yes-no",
                False,
                "false: log in with keys only, as soon as the node has a key of root or of somebody"
                " with sudo",
            ),
        },
    ),
    "firewall": Group(
        "What may come in to the nodes. From rack.network, the pods and the services everything, from"
        " elsewhere nothing but what is said here. See docs/node-preparation.md",
        used="_modules/firewall.py",
        keys={
            "enabled": Key(
                "yes-no",
                False,
                "whether the nodes have one",
                used="salt/firewall/init.sls",
            ),
            "allow": Key(
                "list",
                [],
                "who may use ssh: networks or addresses, with rack.network in them; none: rack.network",
                of=_SOURCE,
                what="networks or addresses",
            ),
            "ports": Key(
                "list",
                [],
                "what else may come in, for example [{port: 6443, from: [192.168.7.0/24]}]. proto is tcp"
                " unless it says udp; without from: from anywhere",
                of=Key("open-port", of=_SOURCE),
                what="ports",
            ),
            "node_ports": Key(
                "list",
                [],
                "who may use the cluster's NodePorts, besides the rack: networks or addresses",
                of=_SOURCE,
                what="networks or addresses",
            ),
        },
    ),
    "cards": Group(
        "What `salt-run enrol.card` writes on a Pi's card. See docs/enrolment.md",
        used="_runners/enrol.py",
        keys={
            "hours": Key(
                "number",
                72,
                "a card that is not used within so many hours opens nothing any more",
                least=1,
                most=24 * 366,
                unit="hours",
            ),
            "user": Key("user-name", "pi", "the user that gets the keys below"),
            "ssh_keys": Key(
                "list",
                [],
                "public keys, a line each, that may log in to the Pis; none: ssh stays off",
                of=Key("ssh-key"),
                what="public ssh keys",
            ),
            "timezone": Key(
                "timezone",
                None,
                "for example Europe/Berlin; null: as the image has it",
                null=True,
            ),
            "address": Key(
                "choice",
                "dhcp",
                "dhcp, or fixed: the Pi gives itself its address in nodes.<id>.ip",
                choices=("dhcp", "fixed"),
                what="way to get an address",
            ),
            "gateway": Key(
                "address",
                None,
                "with a fixed address: the way to the internet, null for none",
                null=True,
            ),
            "dns": Key(
                "list",
                [],
                "with a fixed address: name servers",
                of=Key("address"),
                what="addresses",
            ),
            "wifi": Group(
                "The wifi of nodes that have `wifi: true` under nodes.<id>. Its password is not"
                " written here, where every node could read it, but to the file"
                " /var/lib/saltberry/wifi-password on the master.",
                keys={
                    "ssid": Key("wifi-name", None, "its name", null=True),
                    "country": Key(
                        "country", None, "the country whose radio rules count, like DE", null=True
                    ),
                    "hidden": Key("yes-no", False, "true: it does not tell its name"),
                },
            ),
        },
    ),
    "strangers": Group(
        "Keys that names which nobody knows have sent, and that wait for a person",
        used="_cache/localfs_key.py",
        keys={
            "keys": Key(
                "number",
                100,
                "so many are kept; beyond that the oldest are forgotten",
                least=1,
                most=10000,
                unit="keys",
            ),
        },
    ),
    "reconcile": Group(
        "How the master brings nodes into the cluster",
        used="_runners/rack.py",
        keys={
            "parallel": Key(
                "number",
                5,
                "nodes at a time; each takes some 20 MiB of the master's memory meanwhile",
                least=1,
                most=50,
                unit="nodes",
            ),
            "sweep_minutes": Key(
                "number",
                5,
                "look at the whole rack this often, also when nothing was heard",
                used="salt/reconcile/installed.sls",
                least=1,
                most=1440,
                unit="minutes",
            ),
            "backoff_seconds": Key(
                "list",
                [15, 60, 300, 900],
                "wait after the 1st, 2nd ... failure of a node; then the last",
                of=Key("number", least=1, most=86400, unit="seconds"),
                what="waits in seconds",
                empty=False,
            ),
            "ready_timeout": Key(
                "number",
                180,
                "seconds that a joined node has to become Ready",
                least=10,
                most=3600,
                unit="seconds",
            ),
            "drain_timeout": Key(
                "number",
                300,
                "seconds that pods have to go from a node before its container data moves, or it is"
                " rebooted",
                least=10,
                most=86400,
                unit="seconds",
            ),
            "reboot": Key(
                "yes-no",
                True,
                "a member that wants a reboot (boot flags, config.txt, a new kernel) is drained and"
                " rebooted, one at a time; false: that is left to you",
            ),
        },
    ),
    "drift": Group(
        "Is every node still what this pillar describes? See docs/drift.md",
        used="_runners/drift.py",
        keys={
            "enabled": Key(
                "yes-no",
                True,
                "false: no timer; `salt-run drift.check` works all the same",
                used="_runners/drift.py salt/drift/init.sls",
            ),
            "every_minutes": Key(
                "number",
                60,
                "check the whole rack this often",
                used="_runners/drift.py salt/drift/installed.sls",
                least=5,
                most=10080,
                unit="minutes",
            ),
            "parallel": Key("number", 3, "nodes at a time", least=1, most=50, unit="nodes"),
            "node_timeout": Key(
                "number",
                300,
                "seconds that a node has to compare itself with its states",
                least=10,
                most=3600,
                unit="seconds",
            ),
            "path": Key(
                "path",
                None,
                "folder for results and history; null: <nfs.path>/drift, on the disk of the share",
                null=True,
            ),
            "keep": Key(
                "number", 400, "how many checks are kept", least=10, most=10000, unit="checks"
            ),
            "prometheus": Key(
                "path",
                "/var/lib/prometheus/node-exporter",
                "folder for the text file that Prometheus' node exporter reads; null: none is written",
                null=True,
            ),
            "mail": Key(
                "mail",
                None,
                "who gets a mail when something changed, by /usr/sbin/sendmail; null: nobody. For a"
                " webhook, write its URL to the file /var/lib/saltberry/drift-webhook on the master,"
                " where no node can read it",
                null=True,
            ),
        },
    ),
    "page": Group(
        "The rack as a web page on the master. See docs/drift.md",
        used="salt/page/served.sls",
        keys={
            "enabled": Key(
                "yes-no",
                False,
                "true needs allow or password",
                used="salt/page/init.sls salt/drift/installed.sls",
            ),
            "port": Key("port", 8080, "TCP port of the page on the master", least=1, most=65535),
            "allow": Key(
                "list",
                [],
                "who may see it: networks or addresses, for example [192.168.1.0/24]",
                of=Key("address-or-network", least=8, most=32, what="it is of a home or an office"),
                what="networks or addresses",
            ),
            "password": Key(
                "yes-no",
                False,
                "true: name and password are asked for, as in /etc/nginx/saltberry-page.htpasswd on"
                " the master",
            ),
            "every_minutes": Key(
                "number",
                5,
                "made anew this often",
                used="salt/page/made.sls",
                least=1,
                most=1440,
                unit="minutes",
            ),
        },
    ),
}
