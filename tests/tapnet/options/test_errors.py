"""What a user can get wrong, and the one line that says so.

Each message names option, key and value; most name the nearest known word, or what is allowed instead.
"""

import pytest

from tapnet.errors import HelpAsked, OptionError
from tapnet.options.parse import parse

# A command line (words at blanks), then the whole message.
BAD = """
-nett user
    unknown option "-nett" (did you mean "-net"?)
--nett user
    unknown option "--nett" (did you mean "--net"?)
-isa
    unknown option "-isa" (use -M isapc)
-user-net
    unknown option "-user-net" (use -net nic -net user)
-nics 2
    unknown option "-nics" (use one -net nic for each card)
-hda x
    unknown option "-hda" (tapnet emulates the network only; attach a VM by -net nic,vfio-user=PATH)
-net
    -net: needs a value (TYPE[,KEY=VALUE]...)
-net user,hostfw=tcp::1-:2
    -net user: unknown key "hostfw" (did you mean "hostfwd"?)
-net user,vlan=-1
    -net user: vlan=-1: not in 0..2147483647
-net user,vlan=2147483648
    -net user: vlan=2147483648: not in 0..2147483647
-net user,vlan=x
    -net user: vlan=x: not a number
-net usr
    -net: unknown type "usr" (did you mean "user"?)
-net nick
    -net: unknown type "nick" (did you mean "nic"?)
-net rtl8139
    -net: rtl8139 is a card: write -net nic,model=rtl8139
-net l2tpv3,src=1
    -net l2tpv3: tapnet has no l2tpv3 backend; use a kernel tunnel and -net tap,br=
-net passt
    -net passt: start passt by itself and use -net stream,addr.type=unix,addr.path=PATH
-net ,vlan=1
    -net: needs a type (-net help lists them)
-net vlan=1
    -net: needs type= (-net help lists them)
-net nic,model=e1000
    -net nic: unknown model "e1000" (known: ne2k_pci ne2k_isa rtl8139 pcnet direct)
-net nic,model=nek2_isa
    -net nic: unknown model "nek2_isa" (it is spelt ne2k_isa)
-net nic,model=ne2k_pc
    -net nic: unknown model "ne2k_pc" (did you mean "ne2k_pci"?)
-net nic,macaddr=01:00:5e:00:00:01
    -net nic: macaddr=01:00:5e:00:00:01: a multicast address cannot be a card's own
-net nic,macaddr=00:00:00:00:00:00
    -net nic: macaddr=00:00:00:00:00:00: all zeros cannot be a card's own
-net nic,macaddr=52:54:00
    -net nic: macaddr=52:54:00: not a MAC address (six bytes as 52:54:00:12:34:56)
-net nic,macaddr=52:54:00:12:34:56,mac=52:54:00:12:34:57
    -net nic: mac= and macaddr= are the same key
-net nic,addr=1
    -net nic: addr=1: not a slot 2..1f (0 is the host bridge, 1 the PIIX3)
-net nic,addr=20
    -net nic: addr=20: not a slot 2..1f (0 is the host bridge, 1 the PIIX3)
-net nic,addr=3.1
    -net nic: addr=3.1: a card is function 0 of its slot
-net nic,addr=3 -net nic,addr=3
    -net nic: addr=0x3: the slot is taken by -net nic
-net nic,iobase=0x300
    -net nic: iobase= goes with model=ne2k_isa, not with ne2k_pci
-net nic,model=ne2k_isa,iobase=0x301
    -net nic: iobase=0x301: not a multiple of 0x10
-net nic,model=ne2k_isa,iobase=0xcf0
    -net nic: iobase=0xcf0: overlaps the machine's own port 0xcf8
-net nic,model=ne2k_isa,irq=2
    -net nic: irq=2: not a line of an ISA slot (on an AT bus that line is irq=9)
-net nic,model=ne2k_isa,irq=8
    -net nic: irq=8: not a line of an ISA slot (one of 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15)
-net nic,model=ne2k_isa,irq=16
    -net nic: irq=16: not in 2..15
-net nic,model=ne2k_isa,irq=9 -net nic,model=ne2k_isa,irq=9
    -net nic: irq=9: taken by -net nic; ISA lines are not shared
-net nic,model=ne2k_isa,iobase=0x300 -net nic,model=ne2k_isa,iobase=0x310
    -net nic: iobase=0x310: overlaps the card at 0x300 (-net nic)
-net nic,model=ne2k_isa,addr=3
    -net nic: addr= is a PCI slot; ne2k_isa is no PCI card
-M isapc -net nic,model=rtl8139
    -net nic: model=rtl8139 is a PCI card, -M isapc has ISA slots only (use model=ne2k_isa)
-M isapc -device pcnet
    -device pcnet: model=pcnet is a PCI card, -M isapc has ISA slots only (use model=ne2k_isa)
-M pcc
    -M: unknown machine "pcc" (did you mean "pc"?)
-M q35
    -M: unknown machine "q35" (known: pc isapc)
-M pc,accel=kvm
    -M pc: unknown key "accel=kvm"
-net nic,model=direct
    -net nic: model=direct needs netns=PATH|PID (or tapnet exec)
-net nic,model=direct,netns=7,vfio-user=/x
    -net nic: netns= and vfio-user= exclude each other
-net nic,ifname=eth0
    -net nic: ifname= needs netns=PATH|PID (or tapnet exec)
-net nic,dhcp=on
    -net nic: dhcp= needs netns=PATH|PID (or tapnet exec)
-net nic,netns=1,mtu=9000
    -net nic: mtu=9000: more than 1500 needs model=direct
-net nic,netns=abc
    -net nic: netns=abc: neither a pid nor a path (has no "/")
-net nic,netns=1,ifname=waytoolongname16
    -net nic: ifname=waytoolongname16: an interface name has 1 to 15 characters
-net nic,netns=1,ifname=a/b
    -net nic: ifname=a/b: not an interface name
-net nic,netns=/n,ifname=eth0 -net nic,netns=/n,ifname=eth0
    -net nic: ifname=eth0: already there in that namespace
-net nic,tx-delay=5
    -net nic: tx-delay=5: not one of wire, none
-net nic,model=direct,netns=1,tx-delay=wire
    -net nic: tx-delay= goes with an emulated card, not with model=direct
-net nic,rev=0x10
    -net nic: rev=0x10: only model=rtl8139 has one, 0x10 or 0x20
-net nic,model=rtl8139,rev=3
    -net nic: rev=0x3: only model=rtl8139 has one, 0x10 or 0x20
-net nic,netns=1,vfio-user=/s
    -net nic: netns= and vfio-user= exclude each other
-net nic,name=a -net nic,name=a
    -net nic: name=a: already the name of -net nic
-net nic,vectors=x
    -net nic: vectors=x: not a number
-net nic,name=a b
    -net nic: name=a b: not a name (up to 64 characters without blanks)
-net user,dns=foo
    -net user: dns=foo: not an IPv4 address
-net user,dns
    -net user: dns needs a value: dns=ADDR
-net user,restrict=maybe
    -net user: restrict=maybe: not on or off
-net user,hostname=a,hostname=b
    -net user: hostname= is given twice
-net user,net=10.0.2.0/33
    -net user: net=10.0.2.0/33: not an IPv4 network (ADDR/BITS)
-net user,net=10.0.2.0/30
    -net user: net=10.0.2.0/30: the mask must be between /4 and /29
-net user,net=10.0.2.0/255.0.255.0
    -net user: net=10.0.2.0/255.0.255.0: not a mask (ones, then zeros, as 255.255.255.0)
-net user,net=127.0.0.0/8
    -net user: net=127.0.0.0/8: not a net that guests can live in
-net user,net=300.0.2.0/24
    -net user: net=300.0.2.0/24: not an IPv4 address
-net user,mask=255.255.255.0
    -net user: mask= needs net= or ip=
-net user,net=10.0.2.0/24,mask=255.0.0.0
    -net user: net= with /BITS and mask= exclude each other
-net user,net=10.0.2.0,ip=10.0.3.0
    -net user: net= and ip= exclude each other
-net user,host=10.0.3.2
    -net user: host=10.0.3.2 is not in net=10.0.2.0/24
-net user,dns=192.0.2.53,restrict=on
    -net user: dns=192.0.2.53 is not in net=10.0.2.0/24: with restrict=on guests cannot reach it
-net user,dns=127.0.0.53
    -net user: dns=127.0.0.53: not an address that a name server can have
-net user,ipv6-dns=::1
    -net user: ipv6-dns=::1: not an address that a name server can have
-net user,host=10.0.2.255
    -net user: host=10.0.2.255 is the net's own or broadcast address
-net user,dns=10.0.2.2
    -net user: dns=10.0.2.2 is also host=
-net user,dhcpstart=10.0.2.3
    -net user: dhcpstart=10.0.2.3 is also dns=
-net user,ipv4=off,ipv6=off
    -net user: ipv4=off and ipv6=off leave nothing
-net user,ipv6=on,net=10.0.3.0/24
    -net user: net= needs ipv4=on
-net user,ipv4=on,ipv6-host=fec0::9
    -net user: ipv6-host= needs ipv6=on
-net user,ipv6-net=fec0::/64,ipv6-host=fd00::2
    -net user: ipv6-host=fd00::2 is not in ipv6-net=fec0::/64
-net user,ipv6-net=fec0::/x
    -net user: ipv6-net=fec0::/x: not an IPv6 network (PREFIX/BITS)
-net user,ipv6-prefixlen=64
    -net user: ipv6-prefixlen= needs ipv6-prefix=
-net user,hostfwd=tcp
    -net user: hostfwd=tcp: no ":" in the rule
-net user,hostfwd=sctp::1-:2
    -net user: hostfwd=sctp::1-:2: bad protocol "sctp" (tcp, udp or unix)
-net user,hostfwd=tpc::1-:2
    -net user: hostfwd=tpc::1-:2: bad protocol "tpc" (did you mean "tcp"?)
-net user,hostfwd=tcp:1-:2
    -net user: hostfwd=tcp:1-:2: bad host address "1-"
-net user,hostfwd=tcp::x-:2
    -net user: hostfwd=tcp::x-:2: bad host port "x" (0..65535)
-net user,hostfwd=tcp::1
    -net user: hostfwd=tcp::1: no "-" after the host port "1"
-net user,hostfwd=tcp::1-2
    -net user: hostfwd=tcp::1-2: not PORT-[GUEST]:PORT: "1-2"
-net user,hostfwd=tcp::1-:0
    -net user: hostfwd=tcp::1-:0: bad guest port "0" (1..65535)
-net user,hostfwd=tcp::70000-:1
    -net user: hostfwd=tcp::70000-:1: bad host port "70000" (0..65535)
-net user,hostfwd=tcp:1.2.3:1-:1
    -net user: hostfwd=tcp:1.2.3:1-:1: bad host address "1.2.3"
-net user,hostfwd=tcp::1-1.2.3:1
    -net user: hostfwd=tcp::1-1.2.3:1: bad guest address "1.2.3"
-net user,hostfwd=tcp::1-10.0.3.15:1
    -net user: hostfwd=tcp::1-10.0.3.15:1: guest 10.0.3.15 is not in net=10.0.2.0/24
-net user,hostfwd=tcp::10-5-:1
    -net user: hostfwd=tcp::10-5-:1: bad host port range 10-5
-net user,hostfwd=tcp::10-12-:1-9
    -net user: hostfwd=tcp::10-12-:1-9: 3 host ports do not fit guest ports 1-9
-net user,hostfwd=tcp::10-12-:65535
    -net user: hostfwd=tcp::10-12-:65535: 3 host ports do not fit guest ports 65535-65537
-net user,hostfwd=tcp:[::1:1-:1
    -net user: hostfwd=tcp:[::1:1-:1: "[" without "]:"
-net user,hostfwd=tcp::1-[fd00::15]:1
    -net user: hostfwd=tcp::1-[fd00::15]:1: guest fd00::15 is not in ipv6-net=fec0::/64
-net user,ipv6=off,hostfwd=tcp::1-[fec0::15]:1
    -net user: hostfwd=tcp::1-[fec0::15]:1: guest fec0::15 is IPv6, which is off
-net user,ipv6=on,hostfwd=tcp::1-10.0.2.15:1
    -net user: hostfwd=tcp::1-10.0.2.15:1: guest 10.0.2.15 is IPv4, which is off
-net user,ipv6=on,mtu=1000
    -net user: mtu=1000: IPv6 needs 1280
-net user,ipv6-net=fe80::/64
    -net user: ipv6-net=fe80::/64: not a net that guests can live in
-net user,ipv6-net=::/64
    -net user: ipv6-net=::/64: not a net that guests can live in
-net user,ipv6-host=fec0::
    -net user: ipv6-host=fec0:: is the net's own (subnet-router anycast) address
-net user,ipv6-dns=fd00::3,restrict=on
    -net user: ipv6-dns=fd00::3 is not in ipv6-net=fec0::/64: with restrict=on guests cannot reach it
-net user,ipv6-ula=on,ipv6-net=fd00::/64
    -net user: ipv6-net= and ipv6-ula= exclude each other
-net user,hostfwd=tcp::1-:1,hostfwd=tcp:127.0.0.1:1-:2
    -net user: hostfwd=tcp:127.0.0.1:1-:2: taken by tcp::1-:1
-net user,hostfwd=tcp:[::]:1-:1,hostfwd=tcp:[::1]:1-:2
    -net user: hostfwd=tcp:[::1]:1-:2: taken by tcp:[::]:1-:1
-net user,hostfwd=tcp:[::1]:1-:1,hostfwd=tcp::1-[fec0::15]:2
    -net user: hostfwd=tcp::1-[fec0::15]:2: taken by tcp:[::1]:1-:1
-net user,hostfwd=unix:@-:1
    -net user: hostfwd=unix:@-:1: an abstract socket needs a name behind @
-net user,hostfwd=unix:/s
    -net user: hostfwd=unix:/s: not unix:PATH-[GUEST]:PORT
-net user,guestfwd=tcp:10.0.2.100:80
    -net user: guestfwd=tcp:10.0.2.100:80: no "-" after the port
-net user,guestfwd=tcp:10.0.2.100:80-chardev
    -net user: guestfwd=tcp:10.0.2.100:80-chardev: target "chardev" is none of cmd:, tcp:, udp:, unix:, file:
-net user,guestfwd=tcp:10.0.3.100:80-cmd:cat
    -net user: guestfwd=tcp:10.0.3.100:80-cmd:cat: 10.0.3.100 is not in net=10.0.2.0/24
-net user,guestfwd=tcp:10.0.2.3:53-cmd:cat
    -net user: guestfwd=tcp:10.0.2.3:53-cmd:cat: port 53 there is the name server's
-net user,guestfwd=tcp:10.0.2.100:80-tcp:x
    -net user: guestfwd=tcp:10.0.2.100:80-tcp:x: not HOST:PORT
-net user,allow=tcp:10.0.0.0/8:x
    -net user: allow=tcp:10.0.0.0/8:x: bad first port "x" (1..65535)
-net user,deny=icmp:10.0.0.0/8:80
    -net user: deny=icmp:10.0.0.0/8:80: icmp has no ports
-net user,deny=any
    -net user: deny=any: "any" is 0.0.0.0/0 or ::/0
-net user,deny=tcp:[fd00::/8
    -net user: deny=tcp:[fd00::/8: not [NET]:PORT
-net user,lease=52:54:00:12:34:56=10.0.3.1
    -net user: lease=52:54:00:12:34:56=10.0.3.1 is not in net=10.0.2.0/24
-net user,lease=52:54:00:12:34:56=10.0.2.2
    -net user: lease=52:54:00:12:34:56=10.0.2.2 is an address of the NAT's own
-net user,lease=foo
    -net user: lease=foo: not MAC=ADDR[=NAME]
-net user,record=a
    -net user: record=a: not NAME=ADDR
-net user,resolver=1.2.3.4:0
    -net user: resolver=1.2.3.4:0: "1.2.3.4:0": bad resolver port "0" (1..65535)
-net user,resolver=foo
    -net user: resolver=foo: "foo": not an IP address
-net user,resolver=1.1.1.1+2.2.2
    -net user: resolver=1.1.1.1+2.2.2: "2.2.2": not an IP address
-net user,lease-time=5
    -net user: lease-time=5: not between 60 s and 4294967295 s
-net user,lease-time=abc
    -net user: lease-time=abc: not a time (a number, with s, m, h or d behind it)
-net user,mtu=100
    -net user: mtu=100: not in 576..65520
-net user,buffers=1k
    -net user: buffers=1k: not between 1M and 64G
-net user,buffers=12Q
    -net user: buffers=12Q: not a size (a number, with K, M or G behind it)
-net user,ftp=maybe
    -net user: ftp=maybe: not one of on, off, auto
-net user,tftp-write=on
    -net user: tftp-write= needs tftp=
-net user,tftp-nocase=on
    -net user: tftp-nocase= needs tftp=
-net user,smbserver=10.0.2.4
    -net user: smbserver= needs smb=
-net user,bootfile=99999=x
    -net user: bootfile=99999=x: not an architecture 0..65535
-net user,bootfile=a,bootfile=b
    -net user: bootfile=b: given twice for one architecture
-net user,dhcp-option=0=x
    -net user: dhcp-option=0=x: not an option number 1..254
-net user,impair=delya=3
    -net user: impair=delya=3: unknown word "delya=3" (did you mean "delay"?)
-net tap,fd=3,ifname=tap0
    -net tap: fd= and ifname= exclude each other
-net tap,helper=/h,script=/s
    -net tap: helper= and script= exclude each other
-net tap,br=br/0
    -net tap: br=br/0: not an interface name
-net tap,ifname=tap0123456789abc
    -net tap: ifname=tap0123456789abc: an interface name has 1 to 15 characters
-net tap,fds=3:3
    -net tap: fds=3:3: names one descriptor twice
-net tap,vhostfd=3
    -net tap: vhostfd= needs vhost=
-net tap,fd=tap
    -net tap: fd=tap: not a number
-net socket
    -net socket: needs exactly one of fd=, listen=, connect=, mcast=, udp=
-net socket,listen=:1,connect=h:1
    -net socket: needs exactly one of fd=, listen=, connect=, mcast=, udp=
-net socket,connect=foo
    -net socket: connect=foo: not HOST:PORT
-net socket,mcast=10.0.0.1:1234
    -net socket: mcast=10.0.0.1:1234: 10.0.0.1 is not a multicast address (224.0.0.0 to 239.255.255.255, or ff00::/8)
-net socket,mcast=230.0.0.1:x
    -net socket: mcast=230.0.0.1:x: "x" is not a number
-net socket,udp=h:1
    -net socket: udp= needs localaddr=
-net socket,listen=:1,localaddr=1.2.3.4
    -net socket: localaddr= goes with mcast= or udp=, not with listen=
-net socket,connect=::1:5
    -net socket: connect=::1:5: an IPv6 address needs brackets: [ADDR]:PORT
-net stream
    -net stream: needs addr.type=inet, unix or fd
-net stream,addr.type=inet,addr.host=h
    -net stream: addr.type=inet needs addr.port=
-net stream,addr.type=unix,addr.path=/s,addr.port=1
    -net stream: addr.port= does not belong to addr.type=unix
-net stream,addr.type=inet,addr.host=h,addr.port=1,reconnect=1,server=on
    -net stream: reconnect= is for clients, not with server=on
-net stream,addr.type=inet,addr.host=h,addr.port=1,reconnect=1,reconnect-ms=1
    -net stream: reconnect= and reconnect-ms= exclude each other
-net stream,addr.type=inet,addr.host=h,addr.port=0
    -net stream: addr.port=0 is for server=on
-net stream,addr.host=h
    -net stream: needs addr.type=inet, unix or fd
-net dgram
    -net dgram: needs local.type= (only a multicast remote can do without)
-net dgram,remote.type=inet,remote.host=h,remote.port=5
    -net dgram: needs local.type= (only a multicast remote can do without)
-net dgram,local.type=unix,local.path=/s
    -net dgram: needs remote.type=
-net dgram,local.type=unix,local.path=/s,remote.type=inet,remote.host=h,remote.port=1
    -net dgram: local.type= and remote.type= must be the same
-net dgram,local.type=fd,local.str=3,remote.type=inet,remote.host=h,remote.port=1
    -net dgram: local.type=fd excludes remote.type=
-net vde,mode=999
    -net vde: mode=999: not octal file permissions
-net ws
    -net ws: needs listen=
-net vxlan,id=1
    -net vxlan: needs remote= or group=
-net vxlan,remote=1.2.3.4
    -net vxlan: needs vni= (or id= in -net), the number of the VXLAN network
-net vxlan,id=1,group=239.1.1.1
    -net vxlan: group= needs dev=
-net vxlan,id=1,group=10.1.1.1,dev=eth0
    -net vxlan: group=10.1.1.1: not a multicast address
-net vxlan,id=1,remote=1.2.3.4,remote=1.2.3.4
    -net vxlan: remote=1.2.3.4: twice
-net vxlan,id=1,remote=1.2.3.4,remote=fd00::1
    -net vxlan: remote=fd00::1: not of the family of 1.2.3.4
-net vxlan,id=16777216,remote=1.2.3.4
    -net vxlan: id=16777216: not in 1..16777215
-net vxlan,vni=0,remote=1.2.3.4
    -net vxlan: vni=0: not in 1..16777215
-net hubport
    -net hubport: needs hubid=
-netdev user
    -netdev user: needs id=
-netdev user,id=1
    -netdev user: id=1: not an identifier (a letter, then up to 63 letters, digits, - . _)
-netdev user,id=a,vlan=1
    -netdev user: vlan= does not go with -netdev: write -net user,vlan=N
-netdev nic,id=n
    -netdev nic: a card is -device MODEL,netdev=ID or -net nic
-netdev user,id=u -netdev user,id=u
    -netdev user: id=u: already given to -netdev user
-netdev dump,id=d
    -netdev dump: captures a VLAN: write -net dump, or -object filter-dump for a netdev
-netdev hubport,id=h
    -netdev hubport: needs hubid=
-netdev hubport,id=h,hubid=0,netdev=x
    -netdev hubport: netdev=x: there is no such -netdev
-device
    -device: needs a value (MODEL[,netdev=ID][,...])
-device e1000,netdev=u
    -device: unknown model "e1000" (known: ne2k_pci ne2k_isa rtl8139 pcnet direct)
-netdev user,id=uu -device ne2k_pci,netdev=u
    -device ne2k_pci: netdev=u: there is no such -netdev (did you mean "uu"?)
-device ne2k_pci,netdev=zz
    -device ne2k_pci: netdev=zz: there is no such -netdev
-net user,id=u -device ne2k_pci,netdev=u
    -device ne2k_pci: netdev=u: that is on VLAN 0, not a -netdev
-netdev user,id=u -device ne2k_pci,netdev=u -device ne2k_pci,netdev=u
    -device ne2k_pci: netdev=u: already used by -device ne2k_pci
-netdev user,id=u -device ne2k_pci,netdev=u,vlan=3
    -device ne2k_pci: netdev= and vlan= exclude each other
-device ne2k_pci,id=a -device ne2k_pci,id=a
    -device ne2k_pci: id=a: already the name of -device ne2k_pci
-nic usr
    -nic: unknown type "usr" (did you mean "user"?)
-nic none,model=x
    -nic none: unknown key "model"
-nic user,hostfw=1
    -nic user: unknown key "hostfw" (did you mean "hostfwd"?)
-nic dump
    -nic dump: captures a VLAN: write -net dump
-object filter-dump,id=f,netdev=x,file=y
    -object filter-dump: netdev=x: there is no such member
-object filter-dump,id=f,netdev=user.0
    -object filter-dump: needs file=
-object filter-mirror,id=f
    -object filter-mirror: tapnet has filter-dump only
-object rng-random,id=f
    -object: unknown type "rng-random" (known: filter-dump)
-m 64X
    -m "64X": not a size (a number, with K, M or G behind it)
-m 0
    -m "0": not between 1M and 3G
-m 4G
    -m "4G": not between 1M and 3G
-m 64,slots=2
    -m "64,slots=2": takes only a size, not slots=2
-redir tcp:5555
    -redir "tcp:5555": not tcp|udp:PORT:[GUEST]:PORT
-redir tcp:5555:10.0.2.16:x
    -redir "tcp:5555:10.0.2.16:x": bad guest port "x" (1..65535)
-redir sctp:1::2
    -redir "sctp:1::2": bad protocol "sctp" (tcp or udp)
-redir tcp:1::2 -net nic
    -redir: there is no -net user that it could belong to
-tftp /x -net nic
    -tftp: there is no -net user that it could belong to
-monitor foo
    -monitor foo: not stdio, unix:PATH, tcp:HOST:PORT or none
-monitor tcp:foo
    -monitor tcp:foo: not HOST:PORT
-monitor unix:
    -monitor unix:: needs a value
-monitor tcp:h:1,sever=on
    -monitor tcp:h:1: unknown key "sever" (did you mean "server"?)
-monitor stdio,server=on
    -monitor stdio: stdio takes no server= or wait=
-monitor stdio -qmp stdio
    -qmp stdio: the terminal belongs to -monitor stdio
-monitor tcp:h:1,server=maybe
    -monitor tcp:h:1: server=maybe: not on or off
-metrics foo
    -metrics "foo": not HOST:PORT
-d slrip
    -d: unknown item "slrip" (did you mean "slirp"?)
-mode brdige
    -mode "brdige": not one of user, tap
--ready-fd x
    --ready-fd "x": not a number
--ready-fd=-1
    --ready-fd "-1": not a descriptor 0..1048576
--name a/b
    --name "a/b": not a name (up to 64 letters, digits, - . _)
--name .x
    --name ".x": not a name (up to 64 letters, digits, - . _)
--keep-uid
    --keep-uid belongs to tapnet exec
--config /nonexistent
    -config /nonexistent: No such file or directory
foo
    unexpected word "foo" (a COMMAND belongs to tapnet exec)
-- foo
    unexpected word "foo" (a COMMAND belongs to tapnet exec)
-mode
    -mode: needs a value (user|tap)
-net nic,netdev=u,vlan=1
    -net nic: netdev= and vlan= exclude each other
-net user,guestfwd=tcp:10.0.2.100:80-cmdx:y
    -net user: guestfwd=tcp:10.0.2.100:80-cmdx:y: target "cmdx:y" is none of cmd:, tcp:, udp:, unix:, file: (did you mean "cmd"?)
-net stream,addr.type=inet,addr.host=h,addr.port=1,addr.to=5
    -net stream: addr.to=5: needs server=on and a port not below addr.port
-net dgram,local.type=inet,local.host=h,local.port=1,local.to=3
    -net dgram: local.to= means nothing for datagrams
-nic hubport,hubid=0,netdev=x
    -nic hubport: netdev= is for -netdev hubport; here the card is what joins
-net tap,br
    -net tap: br needs a value: br=BRIDGE
-qmp tcp:h
    -qmp tcp:h: not HOST:PORT
-netdev {"type":"user"}
    -netdev user: needs id=
-netdev {"type":"user","id":"u","hostfw":"x"}
    -netdev user: unknown key "hostfw" (did you mean "hostfwd"?)
-netdev {broken
    -netdev: not JSON, at character 1
-device {"driver":"ne2k_pci","netdev":[["x"]]}
    -device: netdev: neither text, number nor true or false
"""

LINES = BAD.strip("\n").splitlines()
CASES = [(LINES[n], LINES[n + 1].strip()) for n in range(0, len(LINES), 2)]


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_message(line, message):
    argv = ["-net", "nic,name=a b"] if line.endswith("a b") else line.split(" ")
    with pytest.raises(OptionError) as caught:
        parse(argv)
    assert str(caught.value) == message
    assert caught.value.status == 2


LISTS = [
    ("-net help", "user-mode NAT"),
    ("-net ?", "hubport"),
    ("-netdev help", "-netdev TYPE"),
    ("-nic help", "stream"),
    (
        "-net user,help",
        "hostfwd=[tcp|udp]:[ADDR]:PORT[-PORT]|unix:PATH-[GUEST]:PORT (repeatable",
    ),
    ("-netdev tap,help", "script=FILE|no"),
    ("-net nic,help", "netns=PATH|PID"),
    ("-net nic,help", "tx-delay=wire|none"),
    ("-net nic,model=help", "ne2k_isa"),
    ("-nic user,model=help", "rtl8139"),
    ("-nic model=?", "pcnet"),
    ("-device help", "direct"),
    ("-device rtl8139,help", "netdev=ID"),
    ("-M help", "isapc"),
    ("-d help", "slirp"),
]


@pytest.mark.parametrize(("line", "part"), LISTS)
def test_lists_are_no_errors(line, part):
    with pytest.raises(HelpAsked) as caught:
        parse(line.split(" "))
    assert part in str(caught.value)
    assert caught.value.status == 0
    assert all(len(row) <= 80 for row in str(caught.value).splitlines())
