#!/bin/sh
# The first process of the small guest (disk.py). What it says for tests begins with `@@`.
busybox=/bin/busybox
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sys /sys
$busybox mount -t devtmpfs dev /dev
$busybox mount -t tmpfs tmp /tmp
$busybox mount -t tmpfs run /run
$busybox --install -s /bin
export PATH=/bin HOME=/
dmesg -n 1
while read -r module; do
    insmod "/modules/$module" 2>/dev/null
done </modules/order

say() {
    echo "@@ $*"
}

# Its boots are counted on its own disk, in the last megabyte.
size=$(blockdev --getsize64 /dev/vda)
at=$((size / 1048576 - 1))
boots=$(dd if=/dev/vda bs=1M skip=$at count=1 2>/dev/null | head -c 8 | tr -dc 0-9)
boots=$((${boots:-0} + 1))
printf '%-8s' "$boots" | dd of=/dev/vda bs=1M seek=$at conv=notrunc,fsync 2>/dev/null
say "boot $boots of a disk of $((size / 1048576)) MB, $(nproc) processors, $(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) MB"

# The power button.
printf '#!/bin/sh\necho "@@ power button" >/dev/console\nsync\npoweroff -f\n' >/etc/acpi/PWRF/00000080
chmod 755 /etc/acpi/PWRF/00000080
acpid -d -c /etc/acpi >/dev/null 2>&1 &

# A disc has its label at this place (ECMA-119, 8.4.7).
drive=
for disk in /dev/vd?; do
    [ "$(dd if=$disk bs=1 skip=32808 count=8 2>/dev/null)" != config-2 ] || drive=$disk
done
if [ -n "$drive" ] && mount -t iso9660 -o ro "$drive" /config 2>/dev/null; then
    say "config drive $drive"
    say "config hostname $(sed -n 's/.*"hostname":"\([^"]*\)".*/\1/p' /config/openstack/latest/meta_data.json)"
    say "config address $(sed -n 's/.*"ip_address":"\([^"]*\)".*/\1/p' /config/openstack/latest/network_data.json)"
    say "config ec2 $(sed -n 's/.*"instance-id":"\([^"]*\)".*/\1/p' /config/ec2/latest/meta-data.json)"
    say "config keys $(sed -n 's/.*"public_keys":{\([^}]*\)}.*/\1/p' /config/openstack/latest/meta_data.json)"
    [ ! -f /config/openstack/latest/user_data ] || cp /config/openstack/latest/user_data /tmp/userdata
fi

cat >/tmp/lease <<'END'
#!/bin/sh
case $1 in
    bound | renew)
        ip link set eth0 mtu "${mtu:-1500}"
        ip address flush dev eth0
        ip address add "$ip/$mask" dev eth0
        ip route add default via "${router%% *}"
        : >/etc/resolv.conf
        [ -z "$domain" ] || echo "search $domain" >>/etc/resolv.conf
        for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
        hostname "$hostname"
        echo "@@ dhcp $ip router $router dns $dns hostname $hostname mtu $mtu" >/dev/console
        ;;
esac
END
chmod 755 /tmp/lease
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -s /tmp/lease -t 20 -T 1 -n -q >/dev/null 2>&1 || say "no lease"

# Debian's static busybox has a wget that does not work by itself. Who has said all is not to hang up before the answer.
ask() {
    { printf 'GET /%s HTTP/1.0\r\nHost: 169.254.169.254\r\n\r\n' "$1"; sleep 1; } | nc -w 5 169.254.169.254 80 2>/dev/null |
        tr -d '\r' | sed '1,/^$/d'
}
say "metadata $(ask latest/meta-data/instance-id) $(ask latest/meta-data/local-ipv4) $(ask latest/meta-data/instance-type)"

hostname >/www/index.html
echo "$boots" >/www/boots
httpd -p 80 -h /www
say "up"

# As a cloud's guest runs it.
if [ -f /tmp/userdata ] && [ "$(head -c 2 /tmp/userdata)" = '#!' ]; then
    chmod 755 /tmp/userdata
    /tmp/userdata 2>&1 | sed 's/^/@@ userdata: /'
    say "userdata done"
fi
# And a shell on the console, for people.
while :; do
    setsid cttyhack sh 2>/dev/null || sh </dev/ttyS0 >/dev/ttyS0 2>&1
    sleep 1
done
