# Sends "Hi" to the first serial port, and halts.
	.code16
	mov $0x3f8, %dx		# the port: COM1's data register
	mov $'H', %al
	out %al, (%dx)
	mov $'i', %al
	out %al, (%dx)
	hlt
