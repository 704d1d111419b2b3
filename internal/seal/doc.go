// Package seal composes cryptographic primitives and writes none: ids and
// digests, key derivations, signatures, symmetric and public-key sealing, and
// the locked file. It is the only package that composes them. What the messages
// mean is package trust's business.
//
// Every composition has published vectors in testdata/*.json.
//
// Byte-level conventions:
//
//	H(x)             SHA-256
//	X(k, label, ctx) HKDF-SHA256(k, salt = org_id, info = label ‖ 0x00 ‖ ctx), 32 bytes
//	X0               X with no salt
//	GCM              AES-256-GCM, nonce(12, random) ‖ ciphertext ‖ tag(16)
//	CBC              AES-256-CBC with PKCS#7, iv(16, random) ‖ ciphertext
//	ECIES            P-256: ephemeral point(65) ‖ GCM under SHA-256 of the x coordinate
//	HPKE             RFC 9180 base mode, one-shot; ML-KEM-768+X25519 (0x647a),
//	                 HKDF-SHA256 (0x0001), AES-256-GCM (0x0002)
//
// AES-GCM and AES-CBC without additional data follow the public secrets-manager
// SDKs; Rotunda's own blobs always carry additional data.
package seal
