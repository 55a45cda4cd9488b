# Writes inside of the page, and one byte after it.
	.code16
	movb $0x11, 0x1fff
	movb $0x22, 0x2000
	hlt
