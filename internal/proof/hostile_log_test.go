package proof

var logRows = []manipulation{}
