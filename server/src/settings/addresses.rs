//! Where to listen, and that no address excludes another.

use crate::address::{AdminAddress, ListenAddress};

use super::{
    values::{self, Reader},
    written::{Item, Origin},
};

/// Where connections are accepted.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub(crate) listen: Vec<ListenAddress>,
    pub(crate) reuse_port: bool,
    pub(crate) admin: Option<AdminAddress>,
}

impl Addresses {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let default = ListenAddress::default();
        let item = Item { text: default.to_string().into(), origin: Origin::Default };
        let mut listen = reader.read_all("listen", values::text);
        if listen.is_empty() && !reader.unreadable.contains("listen") {
            listen.push((&item, default));
        }
        let reuse_port = reader.read("reuse-port", values::truth).unwrap_or(false);
        let admin = reader.read("admin", values::or_off(values::text)).unwrap_or(None);

        let may_share = reuse_port || reader.unreadable.contains("reuse-port");
        refuse_collisions(reader, &listen, may_share);
        if let Some(AdminAddress(address)) = &admin
            && let Some((taken, _)) = listen.iter().find(|(_, other)| address.collides(other))
        {
            let taken = values::label("listen", taken);
            reader.refuse_written("admin", format_args!("takes the port of {taken}; {CHOOSE}"));
        }
        Self { listen: listen.into_iter().map(|(_, address)| address).collect(), reuse_port, admin }
    }
}

const CHOOSE: &str = "choose another port";

/// Refuses every address that takes what an earlier one has. Ports may be shared.
fn refuse_collisions(reader: &mut Reader<'_>, listen: &[(&Item, ListenAddress)], may_share: bool) {
    for (index, (item, address)) in listen.iter().enumerate() {
        let is_path = matches!(address, ListenAddress::Unix { .. });
        let mut earlier = listen[..index].iter();
        let taken = earlier.find(|(_, other)| address.collides(other));
        let Some((taken, other)) = taken.filter(|_| is_path || !may_share) else { continue };
        let label = values::label("listen", taken);
        let reason = if address == other {
            "is there twice; leave one out".to_owned()
        } else if is_path {
            format!("is the file of {label}; leave one out")
        } else {
            format!("takes the port of {label}; {CHOOSE}, leave one out or set --reuse-port")
        };
        reader.refuse("listen", item, reason);
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        files,
        settings::{Settings, command_line::parsed},
    };

    fn faults(flags: &str) -> Vec<String> {
        let faults = Settings::load(&parsed(flags), &files::any).err();
        faults.map(|faults| faults.lines().to_vec()).unwrap_or_default()
    }

    #[test]
    fn an_address_that_is_there_twice_is_refused() {
        let expected = "--listen ':1': is there twice; leave one out";
        assert_eq!(faults("--listen :1 --listen :2 --listen :1"), [expected]);
        let expected = "--listen 'unix:/a//b': is there twice; leave one out";
        assert_eq!(faults("--listen unix:/a/b --listen unix:/a//b"), [expected]);
        let expected = "--listen 'unix:./a': is the file of --listen 'unix:a'; leave one out";
        assert_eq!(faults("--listen unix:a --listen unix:./a --reuse-port"), [expected]);
    }

    #[test]
    fn an_address_on_the_port_of_another_is_refused_unless_ports_are_shared() {
        let flags = "--listen :9100 --listen 127.0.0.1:9100 --listen [::1]:9100 --listen :9101";
        let reason = "takes the port of --listen ':9100'; choose another port, leave one out or \
                      set --reuse-port";
        let expected = ["127.0.0.1", "[::1]"].map(|ip| format!("--listen '{ip}:9100': {reason}"));
        assert_eq!(faults(flags), expected);
        assert_eq!(faults(&format!("{flags} --reuse-port")), [""; 0]);
        assert_eq!(faults("--listen :1 --listen :1 --reuse-port"), [""; 0]);
        // Whether they are is not known.
        assert_eq!(faults("--listen :1 --listen [::]:1 --reuse-port=yes").len(), 1);
    }

    #[test]
    fn operators_need_a_port_of_their_own() {
        let expected = "--admin ':9100': takes the port of --listen '127.0.0.1:9100'; choose \
                        another port";
        assert_eq!(faults("--listen 127.0.0.1:9100 --admin :9100"), [expected]);
        assert_eq!(faults("--listen 127.0.0.1:9100 --admin :9100 --reuse-port"), [expected]);
        let expected = "--admin '0.0.0.0:9000': takes the port of --listen '127.0.0.1:9000' (the \
                        default); choose another port";
        assert_eq!(faults("--admin 0.0.0.0:9000"), [expected]);
        assert_eq!(faults("--listen x --admin :9000").len(), 1, "the default does not hold");
        assert_eq!(faults("--listen :0 --listen :0 --admin :0"), [""; 0]);
    }
}
