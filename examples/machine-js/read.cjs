// Reads a record with the public secrets-manager SDK for JavaScript, which is used as it
// is: node read.cjs CONFIGURATION TITLE
'use strict'
const { readFileSync } = require('node:fs')
const { getSecrets, loadJsonConfig } = require('@keeper-security/secrets-manager-core')

async function main () {
  const [file, title] = process.argv.slice(2)
  const storage = loadJsonConfig(readFileSync(file, 'utf8').trim())
  const { records } = await getSecrets({ storage })
  for (const r of records.filter(r => r.data.title === title)) {
    console.log(r.data.fields.find(f => f.type === 'password').value[0])
  }
}

main().catch(e => { console.error(e.message); process.exit(1) })
