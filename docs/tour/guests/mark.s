# Prints a register of the device as the guest finds it, and as the guest leaves it, with the routine
# `mark` between. With a word of memory at BEEN, the guest then resets the machine, but only once,
# and so prints four lines.
	.include "device.s"

main:	mov $0x810, %eax		# the BAR
	mov $bar, %ecx
	call write
	mov $0x814, %eax		# its upper half, if it has one
	xor %ecx, %ecx
	call write
	mov $0x804, %eax		# COMMAND: it answers there, and may send requests
	mov $6, %ecx
	call write
	mov bar + OFFSET, %eax
	mov $found, %esi
	call say
	call mark
	mov bar + OFFSET, %eax
	mov $left, %esi
	call say
	.ifdef BEEN
	cmpl $1, BEEN
	je done
	movl $1, BEEN			# a reset of the machine leaves memory alone
	mov $0x602, %edx		# reset
	mov $1, %al
	out %al, (%dx)
	hlt
	.endif
done:	ret
found:	.asciz "found "
left:	.asciz "left  "
