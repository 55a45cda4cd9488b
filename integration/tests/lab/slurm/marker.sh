# A register that a guest sets and a reset clears: CC of an NVMe controller (NVM Express Base
# Specification 2.0, 3.1.3.5 and 3.7.2).
. /lab/functions.sh

# register BDF: the address of CC.
register() {
	echo $(($(head -n 1 "$sys/$1/resource" | cut -d' ' -f1) + 0x14))
}
marker() { # marker BDF: prints it
	/lab/busybox devmem "$(register "$1")" 32
}
mark() { # mark BDF: sets it, without enabling the controller
	/lab/busybox devmem "$(register "$1")" 32 0x00460000
}
# decode BDF: lets a function that nobody has open answer at its addresses (Memory Space Enable).
decode() {
	printf '\002\000' | dd of="$sys/$1/config" bs=1 seek=4 conv=notrunc 2>/dev/null
}
