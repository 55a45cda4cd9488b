# Chapter 9: this guest lets the edu device interrupt twice, and says what came. Fill in `connect`:
# the MSI capability is at 0x840 (ports 0xcf8 and 0xcfc, device 1). Its address register is at 0x844,
# its data register at 0x84c, and bit 16 of the first dword turns MSI on.
# Check it with: cargo run -p tour -- check 9
	.include "device.s"

main:	call tables
	call answer
	call connect
	movl $1, bar + 0x60
	call expect
	movl $2, bar + 0x60
	jmp expect

connect:
# Here is the gap: nothing tells the device what to send, and where to.
	ret
