package proof

var recordRows = []manipulation{}
