// A message centre on 127.0.0.1 (npm: smpp). Arguments: the directory of the node modules.
// Standard output: a line of JSON for each thing that happens, the first one with the port; and for each line of standard input.
// What it answers is in the destination: 4600 and a status in four decimal digits; 4601... gets no answer; with 4602... it hangs up.
// What it reports is, too: 4604 and a state of one digit (message_state) with an error of three; 4605... before it has answered;
// 4606...: a person writes what looks like a report; 4607... with optional parameters alone; 4608... after the next bind.
const path = require('path');
const smpp = require(path.join(process.argv[2], 'smpp'));

const say = (event) => process.stdout.write(JSON.stringify(event) + '\n');
const STATES = ['', 'ENROUTE', 'DELIVRD', 'EXPIRED', 'DELETED', 'UNDELIV', 'ACCEPTD', 'UNKNOWN', 'REJECTD'];
let made = 0;
let later = [];

const report = (session, id, to, fields) => {
  const state = to.startsWith('4604') ? parseInt(to[4], 10) : 2;
  const error = to.startsWith('4604') ? to.slice(5, 8) : '000';
  const text = `id:${id} sub:001 dlvrd:001 submit date:2601010000 done date:2601010001 stat:${STATES[state]} err:${error} text:x`;
  session.deliver_sm({ esm_class: 4, source_addr: to, short_message: text, ...fields });
};

const server = smpp.createServer((session) => {
  say({ event: 'connection' });
  session.on('error', () => {});
  session.on('close', () => say({ event: 'close' }));
  session.on('bind_transceiver', (pdu) => {
    const right = pdu.system_id === 'notify' && pdu.password === 's3cret';
    say({ event: 'bind', version: pdu.interface_version, right });
    session.send(pdu.response({ command_status: right ? 0 : pdu.system_id === 'busy' ? 0x08 : 0x0e }));
    later.splice(0).forEach(([id, to]) => report(session, id, to));
  });
  session.on('enquire_link', (pdu) => { say({ event: 'enquire_link' }); session.send(pdu.response()); });
  session.on('unbind', (pdu) => { say({ event: 'unbind' }); session.send(pdu.response()); session.close(); });
  session.on('deliver_sm_resp', (pdu) => say({ event: 'deliver_sm_resp', status: pdu.command_status }));
  session.on('submit_sm', (pdu) => {
    const to = pdu.destination_addr;
    const text = pdu.short_message;
    say({
      event: 'submit_sm', to, from: pdu.source_addr, from_ton: pdu.source_addr_ton, from_npi: pdu.source_addr_npi,
      to_ton: pdu.dest_addr_ton, to_npi: pdu.dest_addr_npi, data_coding: pdu.data_coding, esm_class: pdu.esm_class,
      validity: pdu.validity_period, registered: pdu.registered_delivery,
      priority: pdu.priority_flag,
      text: text.message, udh: (text.udh || []).map((one) => Buffer.from(one).toString('hex')),
    });
    if (to.startsWith('4601')) return;
    if (to.startsWith('4602')) { session.socket.destroy(); return; }
    if (to.startsWith('4600')) { session.send(pdu.response({ command_status: parseInt(to.slice(4, 8), 10) })); return; }
    const id = `id-${++made}`;
    if (to.startsWith('4605')) report(session, id, to);
    session.send(pdu.response({ message_id: id }));
    if (to.startsWith('4606')) report(session, id, to, { esm_class: 0 });
    else if (to.startsWith('4607')) report(session, id, to, { esm_class: 0, short_message: '', receipted_message_id: id, message_state: 5 });
    else if (to.startsWith('4608')) { later.push([id, to]); session.socket.end(); return; }
    else if (pdu.registered_delivery && !to.startsWith('4605')) report(session, id, to);
    if (to.startsWith('4603')) session.enquire_link();
  });
});
server.on('error', (error) => { say({ event: 'error', error: String(error) }); process.exit(1); });
server.listen(0, '127.0.0.1', () => say({ event: 'listening', port: server.address().port }));
process.stdin.on('data', () => say({ event: 'echo' }));
process.stdin.on('end', () => process.exit(0));
