package main

import "encoding/hex"

var hexModule = module{
	about: "Hexadecimal, of texts and of secrets.",
	functions: []function{
		encodes("encode", "Writes bytes as hexadecimal, in small letters.", `assert(hex.encode("\1\255") == "01ff")`, hex.EncodeToString),
		decodes("decode", "Reads hexadecimal, in small letters or large. What is none gives nil and an error.", `assert(hex.decode("41Ff") == "A\255" and hex.decode("4") == nil)`, "hex", hex.DecodeString),
	},
}
