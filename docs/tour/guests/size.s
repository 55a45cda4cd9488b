# Writes ones to register 0x20 of device 1, and prints the register before, then, and afterwards.
	.include "common.s"

	.set window, 1 << 11 | 0x20
main:	mov $window, %eax
	call read
	mov %eax, %ebx			# what firmware left there
	call hex
	mov $-1, %eax
	call write
	mov $window, %eax
	call read
	call hex
	mov %ebx, %eax			# put it back
	call write
	mov $window, %eax
	call read
	call hex
	mov $'\n', %al
	call char
	ret

# write: %eax goes into the register.
write:	push %eax
	mov $window, %eax
	call config
	pop %eax
	mov $0xcfc, %edx
	out %eax, (%dx)
	ret
