# The five loops of exercise 12, each a thousand times.
	.include "common.s"

main:	mov $1000, %ecx
memory:	mov %ecx, 0x80000		# a store to memory
	loop memory

	mov $1000, %esi
cpuid:	xor %eax, %eax			# the name of the processor
	cpuid
	dec %esi
	jnz cpuid

	mov $1000, %ecx
	mov $0x3fd, %edx
status:	in (%dx), %al			# can the serial port take a character?
	loop status

	mov $1000, %ecx
nowhere:
	mov %ecx, 0xd8000000		# a store to an address that nobody has
	loop nowhere

	mov $1000, %ecx
ids:	mov $0x80000000, %eax		# the IDs of the first device, by two ports
	mov $0xcf8, %edx
	out %eax, (%dx)
	mov $0xcfc, %edx
	in (%dx), %eax
	loop ids
	ret
