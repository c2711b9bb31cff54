"""What has to be done before there is an event loop: guests are made by forking.

Apart from ``tapnet.instance.instance`` so that the fork comes before the cards and the NAT are imported: a guest's helper is small, and
prepares its DHCP client while this process imports the rest.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection
from dataclasses import dataclass, field

from ..config import Config, Net, Nic, UserNet
from ..devices.device import Device
from ..errors import BuildError
from .namespace.guest import NAMESERVER, GuestError, NamespaceGuest
from .namespace.links import NicSpec

IPV6_MTU = 1280  # RFC 8200 5


@dataclass
class Prepared:
    """What had to be made before the loop: guests by NIC name (one guest may have several NICs)."""

    guest: NamespaceGuest | None = None  # of exec
    attached: dict[str, NamespaceGuest] = field(default_factory=dict)

    def close(self) -> None:
        """End the guests. Idempotent."""
        for guest in self.guests():
            guest.close()

    def guests(self) -> list[NamespaceGuest]:
        """All of them."""
        return [*([self.guest] if self.guest else []), *self.attached.values()]

    def device(self, nic: Nic) -> Device | None:
        """The kernel device behind ``nic``; None: it sits on the machine's bus."""
        guest = self.attached.get(nic.name)
        if guest is not None:
            return guest.devices[0]
        if self.guest is not None:
            for spec, device in zip(self.guest.nics, self.guest.devices):
                if spec.ifname == nic.ifname:
                    return device
        return None


def refuse_unbuilt(config: Config) -> None:
    """Raise BuildError for an option whose engine is not there yet."""
    if config.unbuilt:
        raise BuildError("; ".join(config.unbuilt))


def check_descriptors(config: Config) -> None:
    """Raise BuildError for a descriptor that was promised on the command line and cannot be written."""
    if config.ready_fd is not None:
        try:
            mode = fcntl.fcntl(config.ready_fd, fcntl.F_GETFL) & os.O_ACCMODE
        except OSError as error:
            raise BuildError(f"--ready-fd={config.ready_fd}: {error.strerror}") from None
        if mode == os.O_RDONLY:
            raise BuildError(f"--ready-fd={config.ready_fd}: not open for writing")


def _attach(nic: Nic) -> NamespaceGuest:
    """The guest of ``netns=``. Raises BuildError that names the option."""
    try:
        return NamespaceGuest.attach(
            str(nic.netns),
            ifname=nic.ifname or "eth0",
            mac=nic.mac,
            mtu=nic.mtu or 1500,
            dhcp=nic.dhcp,
            direct=nic.model == "direct",
        )
    except GuestError as error:
        raise BuildError(f"{nic.origin}: {error}") from None


def nic_spec(nic: Nic, ifname: str = "eth0", config: Config | None = None) -> NicSpec:
    """The interface of a card; IPv6 needs no waiting where its wire has a user-mode network and nothing but cards."""
    if config is None:
        nets: list[Net] = []
    elif nic.vlan is not None:
        nets = [net for net in config.nets if net.vlan == nic.vlan and net.plugged]
    else:
        nets = [
            wire.net for wire in config.wires if wire.nic is nic and wire.net is not None and wire.net.plugged
        ]
    users = [net for net in nets if isinstance(net, UserNet)]
    alone = nic.dhcp and bool(users) and len(users) == len(nets)
    six = alone and any(net.v6 is not None for net in users) and os.path.exists("/proc/net/if_inet6")
    mtu = nic.mtu or 1500
    return NicSpec(
        nic.ifname or ifname,
        nic.mac,
        mtu,
        nic.dhcp,
        nic.model == "direct",
        dhcp4=not alone or any(net.v4 is not None for net in users),
        quick6=six and mtu >= IPV6_MTU,
    )


def prepare(config: Config, *, exec_: bool = False, mask: Collection[int] | None = None) -> Prepared:
    """Make the guests. Raises BuildError; nothing is left then."""
    refuse_unbuilt(config)
    check_descriptors(config)
    prepared = Prepared()
    try:
        own: list[NicSpec] = []
        for nic in config.nics:
            if nic.netns is not None:
                prepared.attached[nic.name] = _attach(nic)
            elif exec_ and nic.vfio_user is None:
                own.append(nic_spec(nic, f"eth{len(own)}", config))
        if exec_:
            users = [net for net in config.nets if isinstance(net, UserNet) and net.plugged]
            dns = [str(net.v4.dns) for net in users if net.v4]
            dns += [str(net.v6.dns) for net in users if net.v6 and not net.v4]
            search = [s for n in config.nets if isinstance(n, UserNet) for s in n.dhcp.search]
            prepared.guest = NamespaceGuest.spawn(
                own, keep_uid=config.keep_uid, nameservers=dns or (NAMESERVER,), search=search, mask=mask
            )
    except (BuildError, GuestError) as error:
        prepared.close()
        raise BuildError(str(error)) from None
    except BaseException:  # a signal
        prepared.close()
        raise
    return prepared
